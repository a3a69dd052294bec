//! Owners: who owns a folio's contents, and can move them. Drivers and page caches implement [`MovableOps`].
//!
//! The first of the two questions of DESIGN. The answer is in the frame's `owner` field, separate from the key of the
//! reverse map. So a folio can have both: a driver's page that processes map moves like any other. Anonymous memory has
//! no owner, since only its mappings point to it.
//!
//! | file | does |
//! | --- | --- |
//! | `terms` | modes, purposes, refusals |
//! | `token` | the token that an owner keeps for a folio, and a cell for it that needs no lock |
//! | `run` | the arguments of callbacks: consecutive folios of one owner in a batch |
//! | `ops` | the trait of an owner |
//! | `owners` | registering owners, and unregistering while their folios may be moving |
//! | `ownership` | owning a folio, looking it up, releasing it |
//! | `index` | an owner for page caches and for most drivers: pages by their offset |

mod index;
mod ops;
mod owners;
mod ownership;
mod run;
mod terms;
mod token;

pub use index::{LookUpError, NotCollapsed, PageIndex, ReadPage};
pub use ops::MovableOps;
pub use owners::{CallbackGuard, Owner, Owners, Registration, StillMoving};
pub use ownership::TokenError;
pub(crate) use run::{Context, copy_contents};
pub use run::{IsolatedFolio, IsolationRun, MigrationRun, MovingFolio, PutbackRun};
pub use terms::{Mode, Purpose, Purposes, Refusal};
pub use token::{FolioToken, TokenCell};
