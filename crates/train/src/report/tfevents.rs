//! TensorBoard's event files, written by hand: a record is length, checksum, protobuf message, checksum; a message is one
//! `Event` with scalars. Field numbers are those of tensorflow's `event.proto` and `summary.proto`. Touches no file.

use super::{EvalPoint, Metrics, StepPoint, crc32c::crc32c};

/// A whole event file of what is known so far.
pub fn file(metrics: &Metrics) -> Vec<u8> {
    let first = metrics.steps.first().map(|p| p.time).or(metrics.evals.first().map(|p| p.time));
    let mut bytes = header(first.unwrap_or_default());
    for point in &metrics.steps {
        bytes.extend(step(point));
    }
    for point in &metrics.evals {
        bytes.extend(eval(point));
    }
    bytes
}

/// The record every event file starts with.
pub fn header(time: f64) -> Vec<u8> {
    let mut event = event(time, 0);
    // file_version = 3
    bytes_field(&mut event, 3, b"brain.Event:2");
    record(&event)
}

/// The record of one update.
pub fn step(point: &StepPoint) -> Vec<u8> {
    let per_second = if point.step_s > 0.0 { point.tokens as f64 / point.step_s } else { f64::NAN };
    let mut values = vec![
        ("train/loss", point.loss),
        ("train/grad_norm", point.grad_norm),
        ("train/learning_rate", point.learning_rate),
        ("train/tokens_per_second", per_second),
        ("train/memory_gib", point.memory_bytes as f64 / (1u64 << 30) as f64),
    ];
    values.extend(point.loss_scale.map(|scale| ("train/loss_scale", scale)));
    scalars(point.time, point.step, &values)
}

/// The record of one evaluation.
pub fn eval(point: &EvalPoint) -> Vec<u8> {
    scalars(point.time, point.step, &[("eval/loss", point.loss)])
}

fn scalars(time: f64, step: usize, values: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = vec![];
    for (tag, value) in values {
        let mut message = vec![];
        // Summary.Value: tag = 1, simple_value = 2 (a float)
        bytes_field(&mut message, 1, tag.as_bytes());
        message.push(2 << 3 | 5);
        message.extend((*value as f32).to_le_bytes());
        // Summary: value = 1
        bytes_field(&mut summary, 1, &message);
    }
    let mut event = event(time, step);
    // summary = 5
    bytes_field(&mut event, 5, &summary);
    record(&event)
}

/// An `Event` with wall_time = 1 (a double) and step = 2.
fn event(time: f64, step: usize) -> Vec<u8> {
    let mut event = vec![1 << 3 | 1];
    event.extend(time.to_le_bytes());
    if step > 0 {
        event.push(2 << 3);
        varint(&mut event, step as u64);
    }
    event
}

/// A field of wire type 2; all our numbers are below 16, so that the key is one byte.
fn bytes_field(message: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    message.push(number << 3 | 2);
    varint(message, bytes.len() as u64);
    message.extend(bytes);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

/// Frames a message as tensorflow's `RecordWriter` does.
fn record(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked(&length).to_le_bytes());
    record.extend(message);
    record.extend(masked(message).to_le_bytes());
    record
}

/// The checksum as it is stored: rotated and moved, so that a checksum of data with checksums stays a good one.
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records that tensorboard 2.21's RecordWriter wrote of its own messages: a header at time 1.5, and `train/loss` 2.5
    /// at step 300.
    #[test]
    fn records_are_those_of_tensorboard() {
        let expected = b"\x18\0\0\0\0\0\0\0\xa3\x7fK\"\t\0\0\0\0\0\0\xf8?\x1a\rbrain.Event:2*(dl";
        assert_eq!(header(1.5), expected);
        let expected =
            b"!\0\0\0\0\0\0\0\x01{\xec\xf6\t\0\0\0\0\0\0\xf8?\x10\xac\x02*\x13\n\x11\n\ntrain/loss\x15\0\0 @\xb4\xca:;";
        assert_eq!(scalars(1.5, 300, &[("train/loss", 2.5)]), expected);
    }
}
