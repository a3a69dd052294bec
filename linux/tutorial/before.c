// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The starting point of the tutorial in docs/linux-driver.md: a frame grabber whose pages processes map, as such
 * drivers are written today. No page can move: each stays where it was allocated, and blocks its 2 MiB block.
 */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#define GRAB_PAGES 64
#define GRAB_STAMP _IOW('g', 1, u64)
#define GRAB_QUEUE _IOW('g', 2, u64)

struct grab {
	struct mutex lock;
	struct page *pages[GRAB_PAGES];
	/* The device's table: the frame to fill next; 0 is none. */
	u64 ring[GRAB_PAGES];
};

static int grab_open(struct inode *inode, struct file *file)
{
	struct grab *grab = kzalloc(sizeof(*grab), GFP_KERNEL);

	if (!grab)
		return -ENOMEM;
	mutex_init(&grab->lock);
	file->private_data = grab;
	return 0;
}

static struct page *grab_page(struct grab *grab, u64 index)
{
	lockdep_assert_held(&grab->lock);
	if (!grab->pages[index])
		grab->pages[index] = alloc_page(GFP_KERNEL | __GFP_ZERO);
	return grab->pages[index];
}

static vm_fault_t grab_fault(struct vm_fault *vmf)
{
	struct grab *grab = vmf->vma->vm_private_data;
	struct page *page;

	if (vmf->pgoff >= GRAB_PAGES)
		return VM_FAULT_SIGBUS;
	mutex_lock(&grab->lock);
	page = grab_page(grab, vmf->pgoff);
	if (page)
		get_page(page);
	mutex_unlock(&grab->lock);
	vmf->page = page;
	return page ? 0 : VM_FAULT_OOM;
}

static const struct vm_operations_struct grab_vm_ops = {
	.fault = grab_fault,
};

static int grab_mmap(struct file *file, struct vm_area_struct *vma)
{
	vma->vm_private_data = file->private_data;
	vma->vm_ops = &grab_vm_ops;
	return 0;
}

static long grab_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	struct grab *grab = file->private_data;
	struct page *page;
	long error = 0;
	u64 index;

	if (command != GRAB_STAMP && command != GRAB_QUEUE)
		return -ENOTTY;
	if (copy_from_user(&index, (void __user *)argument, sizeof(index)))
		return -EFAULT;
	if (index >= GRAB_PAGES)
		return -ENXIO;
	mutex_lock(&grab->lock);
	page = grab_page(grab, index);
	if (!page)
		error = -ENOMEM;
	else if (command == GRAB_STAMP)
		memcpy(page_address(page), "grab", 4);
	else
		grab->ring[index] = page_to_pfn(page);
	mutex_unlock(&grab->lock);
	return error;
}

static int grab_release(struct inode *inode, struct file *file)
{
	struct grab *grab = file->private_data;
	int index;

	for (index = 0; index < GRAB_PAGES; index++)
		if (grab->pages[index])
			put_page(grab->pages[index]);
	kfree(grab);
	return 0;
}

static const struct file_operations grab_ops = {
	.owner = THIS_MODULE,
	.open = grab_open,
	.mmap = grab_mmap,
	.unlocked_ioctl = grab_ioctl,
	.release = grab_release,
};

static struct miscdevice grab_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "grab",
	.fops = &grab_ops,
};
module_misc_device(grab_device);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("A driver whose pages can't be moved");
