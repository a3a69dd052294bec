/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Shared by the shim's C files: an open, the operations of its pages, and the list of all opens.
 */
#ifndef PMK_INTERNAL_H
#define PMK_INTERNAL_H

#include <linux/atomic.h>
#include <linux/fs.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/refcount.h>
#include <linux/sched.h>

#include "shim.h"

/* An open of the device. */
struct pmk_open {
	struct mutex lock;
	struct inode *inode;
	/* The Rust side's state. */
	void *state;
	/* Outcomes of the moves that the kernel asked for. */
	atomic_long_t moved, refused, busy;

	/* Used by opens.c: this open's pins, its number in the list of opens, and who opened it when. */
	struct list_head pins;
	/* One for the open itself, and one for each reader of the list. */
	refcount_t users;
	u64 since_ns;
	u32 number, pid;
	uid_t uid;
	u8 by[TASK_COMM_LEN];
};

extern const struct address_space_operations pmk_movable, pmk_unmovable;
extern const struct vm_operations_struct pmk_vm_ops;

void pmk_opens_init(const char *device);
void pmk_opens_exit(void);
/* List: once its inode is set, before the driver is called. Unlist: last, since it drops the open and its inode. */
int pmk_open_list(struct pmk_open *open);
void pmk_open_unlist(struct pmk_open *open);

#endif
