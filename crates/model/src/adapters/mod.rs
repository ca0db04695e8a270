//! Adapters: small trained parts on a frozen model. One file for each method.

pub mod lora;
