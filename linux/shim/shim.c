// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The kit's part in C: what of Linux can't be reached from Rust without its headers, and nothing else.
 *
 * Takes calls of the kernel (file operations, faults, migration) and of the kit's Rust (the pmk_ functions); gives
 * each on to the other side. Promises that the Rust side sees no structure of the kernel, so that one Rust object
 * serves every kernel that this file compiles for.
 *
 * Each open of the device has an inode of its own in a pseudo file system, and its pages stand in that inode's page
 * cache. The file's f_mapping points there, so the kernel's reverse map finds every mapping of a page, its migration
 * unmaps and remaps by migration entries, and our migrate_folio has only the driver's tables to care for.
 *
 * Locks, outermost first: an open's lock (read, write, ioctl) - mmap_lock - the mapping's invalidate_lock - folio lock.
 * Faults and migration don't take an open's lock.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/ktime.h>
#include <linux/migrate.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/pseudo_fs.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "shim.h"

/* Any number that no file system uses. */
#define PMK_MAGIC 0x706d6b31

static bool unmovable;
module_param(unmovable, bool, 0444);
MODULE_PARM_DESC(unmovable, "leave out migrate_folio, so that no page can be moved (to compare with)");

/* An open of the device. */
struct pmk_open {
	struct mutex lock;
	struct inode *inode;
	/* The Rust side's. */
	void *state;
};

static struct vfsmount *pmk_mount;

/* ---- migration ---- */

static int pmk_migrate_folio(struct address_space *mapping, struct folio *dst, struct folio *src,
			     enum migrate_mode mode)
{
	/* Both folios are locked, src is in this mapping: so the open is not closed, since closing empties the mapping. */
	struct pmk_open *open = mapping->host->i_private;
	u64 index = src->index, from = folio_pfn(src), to = folio_pfn(dst);
	/* Pairs with the release in pmk_file_open: the driver may have put pages in before it was ready. */
	void *state = smp_load_acquire(&open->state);
	int error;

	if (!state)
		return -EAGAIN;
	error = pmk_rust_isolate(state, index, from, to, mode);
	if (error)
		return error;
	/* Fails when anybody has a reference that isn't accounted for: a pin, a guard. */
	error = filemap_migrate_folio(mapping, dst, src, mode);
	if (!error)
		pmk_rust_migrate(state, index, from, to, mode);
	pmk_rust_putback(state, index, from, to, mode, !error);
	return error;
}

static const struct address_space_operations pmk_movable = {
	.dirty_folio = noop_dirty_folio,
	.migrate_folio = pmk_migrate_folio,
};

/* The kernel can move a clean page even without migrate_folio; ours are dirty (see pmk_get_locked), so it can't. */
static const struct address_space_operations pmk_unmovable = {
	.dirty_folio = noop_dirty_folio,
};

/* ---- pages ---- */

/*
 * How often to look for a locked page before waiting for it in a queue. Whoever waits there has a reference, and by that
 * makes the move fail that it waits for; so the first waits are without. (A move takes microseconds.)
 */
#define PMK_TRIES 50

/*
 * Finds a page, or makes a cleared one; locked and referenced. NULL and an error if there is none.
 * The caller holds invalidate_lock, so that the size holds until the page is in.
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
	/* Older kernels give NULL, newer ones an error. */
	if (IS_ERR_OR_NULL(folio)) {
		*error = create ? -ENOMEM : -ENODATA;
		return NULL;
	}
	if (!folio_test_uptodate(folio)) {
		folio_mark_uptodate(folio);
		/* A clean page that nobody maps would be dropped by drop_caches, and its contents with it. */
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
	/* Locked, so that a truncation or a move comes wholly before or wholly after this fault. */
	return VM_FAULT_LOCKED;
}

static const struct vm_operations_struct pmk_vm_ops = {
	.fault = pmk_fault,
};

void *pmk_page_get(struct pmk_open *open, u64 index, bool create, int *error)
{
	struct address_space *mapping = open->inode->i_mapping;
	struct folio *folio;

	filemap_invalidate_lock_shared(mapping);
	folio = pmk_get_locked(mapping, index, create, error);
	filemap_invalidate_unlock_shared(mapping);
	/* The reference alone keeps it where it is; having had the lock, we know that it isn't a copy half made. */
	if (folio)
		folio_unlock(folio);
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
	/* Private copies of what is gone go as well, as with any file. */
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

void pmk_panic(void)
{
	/* The driver broke a rule of its own; going on could only spread the damage. */
	BUG();
}

/* ---- the file ---- */

static int pmk_file_open(struct inode *node, struct file *file)
{
	struct pmk_open *open = kzalloc(sizeof(*open), GFP_KERNEL_ACCOUNT);
	struct inode *inode;
	void *state;
	int error = -ENOMEM;

	if (!open)
		return error;
	mutex_init(&open->lock);
	inode = alloc_anon_inode(pmk_mount->mnt_sb);
	if (IS_ERR(inode)) {
		error = PTR_ERR(inode);
		goto no_inode;
	}
	open->inode = inode;
	inode->i_private = open;
	inode->i_mapping->a_ops = unmovable ? &pmk_unmovable : &pmk_movable;
	/* There is no file behind these pages: reclaim must leave them. Compaction takes them all the same. */
	mapping_set_unevictable(inode->i_mapping);
	state = pmk_rust_open(open, &error);
	if (!state)
		goto no_state;
	smp_store_release(&open->state, state);
	file->private_data = open;
	file->f_mapping = inode->i_mapping;
	return 0;

no_state:
	/* Waits for moves of what the driver put in. */
	pmk_resize(open, 0);
	inode->i_private = NULL;
	iput(inode);
no_inode:
	kfree(open);
	return error;
}

static int pmk_file_release(struct inode *node, struct file *file)
{
	struct pmk_open *open = file->private_data;
	struct inode *inode = open->inode;

	/* Mappings hold the file: there are none left. First the driver's pins go, then the pages. */
	pmk_rust_close(open->state);
	pmk_resize(open, 0);
	/*
	 * The mapping is empty and stays so, and each folio's lock was taken on the way: no migration runs or begins here.
	 * Whoever still has the inode (drop_caches may) finds nothing in it.
	 */
	pmk_rust_free(open->state);
	inode->i_private = NULL;
	/* __fput() looks no more at f_mapping, but what it points to is about to go. */
	file->f_mapping = node->i_mapping;
	iput(inode);
	kfree(open);
	return 0;
}

static ssize_t pmk_file_read(struct file *file, char __user *to, size_t bytes, loff_t *at)
{
	struct pmk_open *open = file->private_data;
	ssize_t done;

	if (mutex_lock_interruptible(&open->lock))
		return -ERESTARTSYS;
	done = pmk_rust_read(open, open->state, *at, to, bytes);
	mutex_unlock(&open->lock);
	if (done > 0)
		*at += done;
	return done;
}

static ssize_t pmk_file_write(struct file *file, const char __user *from, size_t bytes, loff_t *at)
{
	struct pmk_open *open = file->private_data;
	ssize_t done;

	if (mutex_lock_interruptible(&open->lock))
		return -ERESTARTSYS;
	done = pmk_rust_write(open, open->state, *at, from, bytes);
	mutex_unlock(&open->lock);
	if (done > 0)
		*at += done;
	return done;
}

static loff_t pmk_file_llseek(struct file *file, loff_t at, int whence)
{
	struct pmk_open *open = file->private_data;

	return fixed_size_llseek(file, at, whence, i_size_read(open->inode));
}

static long pmk_file_ioctl(struct file *file, unsigned int command, unsigned long address)
{
	struct pmk_open *open = file->private_data;
	void __user *user = (void __user *)address;
	size_t bytes = _IOC_SIZE(command);
	u8 argument[PMK_ARGUMENT_BYTES] = { 0 };
	long result;

	if (bytes > sizeof(argument))
		return -ENOTTY;
	if ((_IOC_DIR(command) & _IOC_WRITE) && copy_from_user(argument, user, bytes))
		return -EFAULT;
	if (mutex_lock_interruptible(&open->lock))
		return -ERESTARTSYS;
	result = pmk_rust_ioctl(open, open->state, command, argument, bytes);
	mutex_unlock(&open->lock);
	if (result >= 0 && (_IOC_DIR(command) & _IOC_READ) && copy_to_user(user, argument, bytes))
		return -EFAULT;
	return result;
}

static int pmk_file_mmap(struct file *file, struct vm_area_struct *vma)
{
	pgoff_t most = MAX_LFS_FILESIZE >> PAGE_SHIFT;

	/* The kernel leaves this to drivers: past what a size can be, page offsets would mean nothing. */
	if (vma->vm_pgoff > most || vma_pages(vma) > most - vma->vm_pgoff)
		return -EOVERFLOW;
	vma->vm_ops = &pmk_vm_ops;
	return 0;
}

static const struct file_operations pmk_file_ops = {
	.owner = THIS_MODULE,
	.open = pmk_file_open,
	.release = pmk_file_release,
	.read = pmk_file_read,
	.write = pmk_file_write,
	.llseek = pmk_file_llseek,
	.unlocked_ioctl = pmk_file_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.mmap = pmk_file_mmap,
};

/* ---- the module ---- */

static int pmk_init_fs_context(struct fs_context *context)
{
	return init_pseudo(context, PMK_MAGIC) ? 0 : -ENOMEM;
}

/* No .owner: the mount below is ours, and would keep the module from ever being unloaded. */
static struct file_system_type pmk_fs = {
	.name = KBUILD_MODNAME,
	.init_fs_context = pmk_init_fs_context,
	.kill_sb = kill_anon_super,
};

static struct miscdevice pmk_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.fops = &pmk_file_ops,
};

static int __init pmk_init(void)
{
	int error;

	pmk_mount = kern_mount(&pmk_fs);
	if (IS_ERR(pmk_mount))
		return PTR_ERR(pmk_mount);
	pmk_device.name = pmk_rust_name();
	error = misc_register(&pmk_device);
	if (error)
		kern_unmount(pmk_mount);
	return error;
}

static void __exit pmk_exit(void)
{
	/* In this order: after the first, nobody can open; the module isn't in use, so nothing is open. */
	misc_deregister(&pmk_device);
	kern_unmount(pmk_mount);
}

module_init(pmk_init);
module_exit(pmk_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("A driver whose pages can be moved while processes map them");
