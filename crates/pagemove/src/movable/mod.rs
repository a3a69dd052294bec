//! Who owns a folio's contents, and so can move them: drivers by their [`MovableOps`], page caches by the same.
//!
//! The first of the two questions about a folio. The answer stands in the frame's `owner` field, apart from the key of
//! the reverse map, so a folio can have both: a driver's page that processes map moves like any other.
//! Anonymous memory has no owner: its contents are copied, and its mappings are all that points to it.
//!
//! | file | does |
//! | --- | --- |
//! | `terms` | modes, purposes, refusals |
//! | `token` | the number that an owner keeps for a folio |
//! | `run` | what callbacks get: the folios of one owner in a batch |
//! | `ops` | what an owner implements |
//! | `owners` | registering an owner, and ending that while its folios may be moving |
//! | `ownership` | owning a folio, looking it up, giving it up |
//! | `index` | an owner for page caches and for most drivers: pages by their offset |

mod index;
mod ops;
mod owners;
mod ownership;
mod run;
mod terms;
mod token;

pub use index::{PageIndex, ReadPage};
pub use ops::MovableOps;
pub use owners::{CallbackGuard, Owner, Owners, Registration, StillMoving};
pub use ownership::TokenError;
pub(crate) use run::{Context, copy_contents};
pub use run::{IsolatedFolio, IsolationRun, MigrationRun, MovingFolio, PutbackRun};
pub use terms::{Mode, Purpose, Purposes, Refusal};
pub use token::FolioToken;
