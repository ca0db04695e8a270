//! The program itself with a real model, in the place of the server in the test's process: where `OUNCE_SOAK_MODEL` names the model
//! and `OUNCE` the program, as `cargo xtask soak` sets them. It knows no request.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What the program serves, if it is to be the server.
pub fn model() -> Option<OsString> {
    std::env::var_os("OUNCE_SOAK_MODEL").filter(|model| !model.is_empty())
}

pub struct Program {
    child: Child,
    pub address: SocketAddr,
}

impl Program {
    /// Serves `model` under the name of the tiny one, which counters and errors show.
    pub fn start(model: OsString, slots: usize, queue: usize, drain: Duration, flags: &[String]) -> Program {
        let program = PathBuf::from(std::env::var_os("OUNCE").expect("OUNCE is the program"));
        let mut command = Command::new(&program);
        command.arg("serve").arg(model).args(["--name", "tiny", "--port", "0", "--context", "256", "--json"]);
        command.args(["--parallel", &slots.to_string(), "--queue", &queue.to_string()]);
        command.args(["--drain-timeout", &drain.as_secs().to_string()]).args(flags);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains("\"url\"")).expect("it says where it listens");
        let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap().parse().unwrap();
        // What it says from here on must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Program { child, address }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM.
    pub fn tell_to_stop(&self) {
        let told = Command::new("kill").args(["-TERM", &self.id().to_string()]).status().unwrap();
        assert!(told.success(), "{told}");
    }

    /// Waits for its end, which must be in order.
    pub fn join(mut self, patience: Duration) {
        let began = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(began.elapsed() < patience, "the server does not end"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(status.success(), "{status}");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
