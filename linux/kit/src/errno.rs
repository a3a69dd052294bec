// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The kernel's error numbers, as far as drivers need them.

/// Why a call fails, as the calling process will see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(i32);

impl Errno {
    /// Not allowed.
    pub const EPERM: Self = Self(1);
    /// A bad address.
    pub const EFAULT: Self = Self(14);
    /// Something is used, and stays so.
    pub const EBUSY: Self = Self(16);
    /// It's there already.
    pub const EEXIST: Self = Self(17);
    /// A bad argument.
    pub const EINVAL: Self = Self(22);
    /// No such command.
    pub const ENOTTY: Self = Self(25);
    /// No room for so much.
    pub const ENOSPC: Self = Self(28);
    /// No such thing.
    pub const ENOENT: Self = Self(2);
    /// Past the end.
    pub const ENXIO: Self = Self(6);
    /// Once more.
    pub const EAGAIN: Self = Self(11);
    /// No memory.
    pub const ENOMEM: Self = Self(12);
    /// Nothing there.
    pub const ENODATA: Self = Self(61);

    /// Takes what C gives: a negative number. Anything that isn't one is "bad argument".
    pub const fn from_negative(number: i32) -> Self {
        if number < 0 && number > -4096 { Self(-number) } else { Self::EINVAL }
    }

    /// Gives what C wants: a negative number.
    pub const fn negative(self) -> i32 {
        -self.0
    }
}
