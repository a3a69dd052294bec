/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What the shim's C files share: an open, the operations that its pages have, and the list of all opens.
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
	/* The Rust side's. */
	void *state;
	/* What became of the moves that the kernel asked for. */
	atomic_long_t moved, refused, busy;

	/* The rest is of opens.c: this one's pins, its number in the list of all opens, and who opened it when. */
	struct list_head pins;
	/* The open itself is one; and each reader that looks at it. */
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
/* Once its inode is there, and before the driver hears of it; and last, which gives up inode and open. */
int pmk_open_list(struct pmk_open *open);
void pmk_open_unlist(struct pmk_open *open);

#endif
