/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What the shim's two C files share: an open, and the operations that its pages have.
 */
#ifndef PMK_INTERNAL_H
#define PMK_INTERNAL_H

#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/mutex.h>

#include "shim.h"

/* An open of the device. */
struct pmk_open {
	struct mutex lock;
	struct inode *inode;
	/* The Rust side's. */
	void *state;
};

extern const struct address_space_operations pmk_movable, pmk_unmovable;
extern const struct vm_operations_struct pmk_vm_ops;

#endif
