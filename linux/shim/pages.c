// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The pages of an open: looked up, allocated, faulted in, moved, freed; and the services that Rust calls.
 *
 * Takes calls of the kernel's memory management and of the Rust side; gives pages, locked or referenced. A page is in
 * its mapping while its lock is held. The driver is asked about a move only when nobody else holds the page. Waiting
 * for a moving page takes no reference to it, unless the move takes very long.
 */
#include <linux/capability.h>
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/ktime.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "internal.h"

/* ---- migration ---- */

static int pmk_migrate_folio(struct address_space *mapping, struct folio *dst, struct folio *src,
			     enum migrate_mode mode)
{
	/* Both folios are locked and src is in this mapping. So the open is not closed: closing empties the mapping. */
	struct pmk_open *open = mapping->host->i_private;
	u64 index = src->index, from = folio_pfn(src), to = folio_pfn(dst);
	/* Pairs with the release in pmk_file_open. NULL if the driver is still in its open, which may add pages. */
	void *state = smp_load_acquire(&open->state);
	int error;

	if (!state)
		return -EAGAIN;
	/*
	 * Don't ask the driver about a page that somebody holds: the holder of a guard may be about to record the
	 * frame, and isolate must see that record. Expected references are the page cache's and the mover's: there are
	 * no mappings and no private data. Guards and pins are taken under the folio's lock, which the mover holds
	 * until putback is over. Later lockless references come only from look-ups that pass or wait (GUP finds no
	 * entry), and make the freeze fail.
	 */
	if (folio_ref_count(src) != 1 + folio_nr_pages(src)) {
		atomic_long_inc(&open->busy);
		return -EAGAIN;
	}
	/* Pairs with pmk_page_put: isolate sees what was recorded under the last guard. */
	smp_acquire__after_ctrl_dep();
	error = pmk_rust_isolate(state, index, from, mode);
	if (error) {
		atomic_long_inc(&open->refused);
		return error;
	}
	/* Fails if somebody took a reference since the check. */
	error = filemap_migrate_folio(mapping, dst, src, mode);
	if (!error)
		pmk_rust_migrate(state, index, from, to, mode);
	pmk_rust_putback(state, index, error ? from : to, mode);
	atomic_long_inc(error ? &open->busy : &open->moved);
	return error;
}

const struct address_space_operations pmk_movable = {
	.dirty_folio = noop_dirty_folio,
	.migrate_folio = pmk_migrate_folio,
};

/* Without migrate_folio the kernel can still move clean pages; ours are dirty (see pmk_get_locked). */
const struct address_space_operations pmk_unmovable = {
	.dirty_folio = noop_dirty_folio,
};

/* ---- pages ---- */

/*
 * How often to try a locked page before sleeping on its lock. A sleeper holds a reference, which makes the move that it
 * waits for fail. So the first waits are without one. (A move takes microseconds.)
 */
#define PMK_TRIES 50

/*
 * Gives the page locked and referenced, or NULL and an error. Allocates a zeroed page if there is none and `create` is
 * set. The caller holds invalidate_lock, so that the size can't change before the page is inserted.
 */
static struct folio *pmk_get_locked(struct address_space *mapping, pgoff_t index, bool create, int *error)
{
	gfp_t gfp = mapping_gfp_mask(mapping) | __GFP_ZERO;
	struct folio *folio;
	int tries;

	if (index >= i_size_read(mapping->host) >> PAGE_SHIFT) {
		*error = -ENXIO;
		return NULL;
	}
	for (tries = 0; tries < PMK_TRIES; tries++) {
		folio = __filemap_get_folio(mapping, index, 0, 0);
		if (IS_ERR_OR_NULL(folio))
			break;
		if (folio_trylock(folio)) {
			if (folio->mapping == mapping)
				return folio;
			folio_unlock(folio);
		}
		folio_put(folio);
		usleep_range(2, 20);
	}
	folio = __filemap_get_folio(mapping, index, FGP_LOCK | (create ? FGP_CREAT : 0), gfp);
	/* Older kernels return NULL, newer ones an error. */
	if (IS_ERR_OR_NULL(folio)) {
		*error = create ? -ENOMEM : -ENODATA;
		return NULL;
	}
	if (!folio_test_uptodate(folio)) {
		folio_mark_uptodate(folio);
		/* A clean unmapped page may be dropped with its contents (soft-offlining does). */
		folio_mark_dirty(folio);
	}
	return folio;
}

static vm_fault_t pmk_fault(struct vm_fault *vmf)
{
	struct address_space *mapping = vmf->vma->vm_file->f_mapping;
	struct folio *folio;
	int error = 0;

	filemap_invalidate_lock_shared(mapping);
	folio = pmk_get_locked(mapping, vmf->pgoff, true, &error);
	filemap_invalidate_unlock_shared(mapping);
	if (!folio)
		return error == -ENOMEM ? VM_FAULT_OOM : VM_FAULT_SIGBUS;
	vmf->page = folio_page(folio, 0);
	/* Returned locked, so that a truncation or a move is ordered wholly before or after this fault. */
	return VM_FAULT_LOCKED;
}

const struct vm_operations_struct pmk_vm_ops = {
	.fault = pmk_fault,
	/* A load also maps present pages around it. */
	.map_pages = filemap_map_pages,
};

void *pmk_page_get(struct pmk_open *open, u64 index, bool create, int *error)
{
	struct address_space *mapping = open->inode->i_mapping;
	struct folio *folio;

	/* Ends a driver's loop over many pages when its process is killed, before it uses up the memory reserves. */
	if (fatal_signal_pending(current)) {
		*error = -EINTR;
		return NULL;
	}
	filemap_invalidate_lock_shared(mapping);
	folio = pmk_get_locked(mapping, index, create, error);
	filemap_invalidate_unlock_shared(mapping);
	if (!folio)
		return NULL;
	/* The reference alone prevents moves. Having had the lock shows that no copy was under way. */
	folio_unlock(folio);
	/* Reading memory that the hardware reported as broken kills the kernel. (Faults check for themselves.) */
	if (PageHWPoison(folio_page(folio, 0))) {
		folio_put(folio);
		*error = -EIO;
		return NULL;
	}
	return folio;
}

void pmk_page_put(void *page)
{
	folio_put(page);
}

void *pmk_page_address(void *page)
{
	return folio_address(page);
}

u64 pmk_page_pfn(void *page)
{
	return folio_pfn((struct folio *)page);
}

void pmk_resize(struct pmk_open *open, u64 pages)
{
	struct address_space *mapping = open->inode->i_mapping;
	loff_t size = (loff_t)pages << PAGE_SHIFT;

	filemap_invalidate_lock(mapping);
	i_size_write(open->inode, size);
	/* Also drops private copies of the truncated pages, as with any file. */
	truncate_pagecache(open->inode, size);
	filemap_invalidate_unlock(mapping);
}

void pmk_free_range(struct pmk_open *open, u64 first, u64 pages)
{
	struct address_space *mapping = open->inode->i_mapping;
	loff_t from = (loff_t)first << PAGE_SHIFT;

	if (!pages)
		return;
	filemap_invalidate_lock(mapping);
	truncate_pagecache_range(open->inode, from, from + ((loff_t)pages << PAGE_SHIFT) - 1);
	filemap_invalidate_unlock(mapping);
}

u64 pmk_len(struct pmk_open *open)
{
	return i_size_read(open->inode) >> PAGE_SHIFT;
}

u64 pmk_count(struct pmk_open *open)
{
	return open->inode->i_mapping->nrpages;
}

/* ---- services ---- */

void *pmk_alloc(size_t bytes)
{
	return kvzalloc(bytes, GFP_KERNEL_ACCOUNT);
}

void pmk_free(void *memory)
{
	kvfree(memory);
}

size_t pmk_copy_to_user(void __user *to, const void *from, size_t bytes)
{
	return copy_to_user(to, from, bytes);
}

size_t pmk_copy_from_user(void *to, const void __user *from, size_t bytes)
{
	return copy_from_user(to, from, bytes);
}

u64 pmk_now_ns(void)
{
	return ktime_get_boottime_ns();
}

u32 pmk_caller(u8 name[TASK_COMM_LEN])
{
	BUILD_BUG_ON(TASK_COMM_LEN != 16);
	memcpy(name, current->comm, TASK_COMM_LEN);
	name[TASK_COMM_LEN - 1] = 0;
	return task_tgid_nr(current);
}

bool pmk_caller_is_administrator(void)
{
	return capable(CAP_SYS_ADMIN);
}

void pmk_panic(void)
{
	/* The driver broke one of its own rules; continuing could spread the damage. */
	BUG();
}
