//! `pagemove record` and `pagemove replay`: captures over time in a folder, and what they show.

mod name;
mod record;
mod replay;
mod store;

pub(crate) use self::{
    record::{RecordArgs, run as record},
    replay::{ReplayArgs, run as replay},
};
