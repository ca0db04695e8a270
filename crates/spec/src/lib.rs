//! Plain data that the other crates exchange: model configuration, recipe, plan, machine, events. Public fields, serde,
//! no logic beyond reading a value off another.

pub mod dtype;
pub mod event;
pub mod machine;
pub mod model;
pub mod plan;
pub mod recipe;

pub use dtype::DType;
pub use event::Event;
pub use machine::Machine;
pub use model::ModelConfig;
pub use plan::Plan;
pub use recipe::Recipe;
