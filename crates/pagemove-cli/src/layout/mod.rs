//! The layout of physical memory by class.
