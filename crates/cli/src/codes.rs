//! Every error code of `ounce`, in one table: what it means and how the process ends with it.

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done,
    /// Something went wrong.
    Failed,
    /// The command line, a recipe or a plan was refused; nothing was started.
    Usage,
    /// A quality gate was missed.
    Gate,
    /// The disk is full, the network is away, a signal came: the same command can go on later.
    Temporary,
    /// Ctrl-C.
    Interrupted,
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Gate => 3,
            Exit::Temporary => 75,
            Exit::Interrupted => 130,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    pub id: &'static str,
    pub exit: Exit,
    /// When it is given.
    pub meaning: &'static str,
}

macro_rules! codes {
    ($($name:ident = $id:literal, $exit:ident, $meaning:literal;)*) => {
        $(pub static $name: Code = Code { id: $id, exit: Exit::$exit, meaning: $meaning };)*
        /// The table, for `ounce schema errors`.
        pub static ALL: &[&Code] = &[$(&$name),*];
    };
}

codes! {
    USAGE = "O0001", Usage, "the command line is not understood";
    INTERNAL = "O0002", Failed, "a fault of the program itself";
    READ = "O0003", Failed, "a file cannot be read";
    WRITE = "O0004", Failed, "a file cannot be written";
    DISK_FULL = "O0005", Temporary, "there is no room left on the disk";
    NO_MEMORY = "O0006", Failed, "the system gave no memory";
    RECIPE = "O0101", Usage, "settings of a recipe, --set or flags are wrong";
    RECIPE_INCOMPLETE = "O0102", Usage, "a setting that has no default is missing";
    MODEL = "O0201", Failed, "a model cannot be opened";
    TOKENIZER = "O0202", Failed, "a model's tokenizer or chat template cannot be used";
    ADAPTER = "O0203", Failed, "an adapter cannot be used with its base model";
    HUB_NAME = "O0204", Usage, "a model is neither a path nor in the cache";
    DATA = "O0211", Failed, "a data set cannot be read";
    DATA_FAULTY = "O0212", Failed, "a data set has rows that cannot be used";
    SAMPLING = "O0221", Usage, "sampling settings are out of range";
    FORM = "O0222", Usage, "an answer cannot be held to the form that was asked for";
    DOES_NOT_FIT = "O0231", Usage, "a run needs more memory than there is";
    TRAINING = "O0301", Failed, "a run cannot go on";
    NOT_A_NUMBER = "O0302", Failed, "a loss or a gradient was not a number";
    RUN_EXISTS = "O0303", Usage, "the directory of a run is in use";
    RESUME = "O0304", Failed, "a run cannot be resumed";
    INTERRUPTED = "O0305", Interrupted, "Ctrl-C; what was done is saved";
    TERMINATED = "O0306", Temporary, "SIGTERM; what was done is saved";
    OFFLINE = "O0401", Failed, "the network is needed, and it was switched off";
    NETWORK = "O0402", Temporary, "a server cannot be reached, or broke off";
    HUB_REFUSED = "O0403", Failed, "the hub refused a request";
    HUB_ANSWER = "O0404", Failed, "the hub's answer is unsafe or makes no sense";
    CHECKSUM = "O0405", Failed, "a downloaded file is not what the hub announced";
    TASK = "O0501", Failed, "a task file cannot be used";
    GATE = "O0502", Gate, "a score is below what was asked for";
    OPEN = "O0601", Usage, "a server that others can reach needs a key";
    SERVE = "O0602", Failed, "a server cannot start";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_in_order() {
        for pair in ALL.windows(2) {
            assert!(pair[0].id < pair[1].id, "{} stands before {}", pair[0].id, pair[1].id);
        }
        assert!(ALL.iter().all(|c| c.id.len() == 5 && c.id.starts_with('O') && c.exit != Exit::Done));
    }
}
