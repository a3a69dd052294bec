// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! A process's buffer, for the driver's `read` and `write`.

use pagemove_kit::{Errno, UserMemory};

/// A process's buffer. Accesses from byte `bad` on fail.
#[derive(Debug, Clone)]
pub struct User {
    /// The contents.
    pub bytes: Vec<u8>,
    /// The number of bytes copied.
    pub done: usize,
    /// The first inaccessible byte.
    pub bad: usize,
}

impl User {
    /// A fully accessible buffer.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bad: bytes.len(), bytes, done: 0 }
    }

    fn take_range(&mut self, len: usize) -> Result<core::ops::Range<usize>, Errno> {
        let range = self.done..self.done + len.min(self.left());
        self.done = range.end;
        if range.end > self.bad { Err(Errno::EFAULT) } else { Ok(range) }
    }
}

impl UserMemory for User {
    fn left(&self) -> usize {
        self.bytes.len() - self.done
    }

    fn put(&mut self, from: &[u8]) -> Result<(), Errno> {
        let range = self.take_range(from.len())?;
        self.bytes[range.clone()].copy_from_slice(&from[..range.len()]);
        Ok(())
    }

    fn get(&mut self, to: &mut [u8]) -> Result<(), Errno> {
        let range = self.take_range(to.len())?;
        to[..range.len()].copy_from_slice(&self.bytes[range]);
        Ok(())
    }
}
