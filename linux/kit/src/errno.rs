// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The error numbers that drivers need.

/// Why a call fails, as returned to the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(i32);

impl Errno {
    /// Not permitted.
    pub const EPERM: Self = Self(1);
    /// Bad address.
    pub const EFAULT: Self = Self(14);
    /// In use.
    pub const EBUSY: Self = Self(16);
    /// Already exists.
    pub const EEXIST: Self = Self(17);
    /// Invalid argument.
    pub const EINVAL: Self = Self(22);
    /// Unknown ioctl.
    pub const ENOTTY: Self = Self(25);
    /// No space left.
    pub const ENOSPC: Self = Self(28);
    /// No such entry.
    pub const ENOENT: Self = Self(2);
    /// Past the end.
    pub const ENXIO: Self = Self(6);
    /// Try again.
    pub const EAGAIN: Self = Self(11);
    /// Out of memory.
    pub const ENOMEM: Self = Self(12);
    /// No data there.
    pub const ENODATA: Self = Self(61);

    /// Converts a negative C error number. Anything else becomes `EINVAL`.
    pub const fn from_negative(number: i32) -> Self {
        if number < 0 && number > -4096 { Self(-number) } else { Self::EINVAL }
    }

    /// Converts to a negative C error number.
    pub const fn negative(self) -> i32 {
        -self.0
    }
}
