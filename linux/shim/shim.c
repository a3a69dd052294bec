// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The kit's part in C: only what Rust can't reach without the kernel's headers.
 *
 * Forwards the kernel's calls (file operations, faults, migration) to Rust, and Rust's calls (the pmk_ functions) to
 * the kernel. The Rust side sees no kernel structure, so one Rust object serves every kernel that this file compiles
 * for.
 *
 * Each open of the device has its own inode in a pseudo file system, and its pages are in that inode's page cache. The
 * file's f_mapping points there, so the kernel's reverse map finds every mapping of a page, and its migration unmaps
 * and remaps by migration entries. Our migrate_folio only updates the driver's tables.
 *
 * Lock order: an open's lock (read, write, ioctl) - mmap_lock - the mapping's invalidate_lock - folio lock. Faults and
 * migration don't take an open's lock.
 */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/pseudo_fs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "internal.h"

/* Not used by any file system. */
#define PMK_MAGIC 0x706d6b31

static bool unmovable;
module_param(unmovable, bool, 0444);
MODULE_PARM_DESC(unmovable, "leave out migrate_folio, so that no page can be moved (to compare with)");

static struct vfsmount *pmk_mount;

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
	/*
	 * Reclaim must skip these pages: no file backs them. Compaction still moves them, unless
	 * vm.compact_unevictable_allowed is 0.
	 */
	mapping_set_unevictable(inode->i_mapping);
	error = pmk_open_list(open);
	if (error)
		goto no_number;
	state = pmk_rust_open(open, &error);
	if (!state)
		goto no_state;
	smp_store_release(&open->state, state);
	file->private_data = open;
	file->f_mapping = inode->i_mapping;
	return 0;

no_state:
	/* Waits for moves of pages that the driver added. */
	pmk_resize(open, 0);
	inode->i_private = NULL;
	pmk_open_unlist(open);
	return error;
no_number:
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

	/* No mappings are left, since each holds the file. Drop the driver's pins first, then the pages. */
	pmk_rust_close(open->state);
	pmk_resize(open, 0);
	/*
	 * The mapping is empty and stays so, and each folio's lock was taken on the way: no migration runs or can start
	 * here. Others may still have the inode (drop_caches), but find nothing in it.
	 */
	pmk_rust_free(open->state);
	inode->i_private = NULL;
	/* __fput() no longer uses f_mapping, but its target is about to be freed. */
	file->f_mapping = node->i_mapping;
	pmk_open_unlist(open);
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

	/* The kernel leaves this check to drivers: beyond the largest size, page offsets are meaningless. */
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
	/* No storage backs the pages. */
	.fsync = noop_fsync,
};

/* ---- the module ---- */

static int pmk_init_fs_context(struct fs_context *context)
{
	return init_pseudo(context, PMK_MAGIC) ? 0 : -ENOMEM;
}

/* No .owner: the mount below is ours, and would keep the module from being unloaded. */
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
	else
		pmk_opens_init(pmk_device.name);
	return error;
}

static void __exit pmk_exit(void)
{
	/* In this order: after misc_deregister nobody can open. Nothing is open, since the module isn't in use. */
	pmk_opens_exit();
	misc_deregister(&pmk_device);
	kern_unmount(pmk_mount);
}

module_init(pmk_init);
module_exit(pmk_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("A driver whose pages can be moved while processes map them");
