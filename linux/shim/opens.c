// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * What an administrator sees in debugfs: every open of the device, what became of its moves, and who keeps its pages.
 *
 * Takes each open and each pin as it comes and goes; gives the file `opens`, of a line for each. Promises that a page which
 * the driver keeps beyond a call is listed for just as long, whoever has its descriptors; that no name can look like another
 * line; and that a reader keeps nobody from moving, and from opening and pinning for no longer than the lines of one open's
 * pins take: it has no lock while it looks at an open's pages, and takes no reference to them.
 */
#include <linux/atomic.h>
#include <linux/cred.h>
#include <linux/debugfs.h>
#include <linux/ktime.h>
#include <linux/limits.h>
#include <linux/list.h>
#include <linux/math64.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string_helpers.h>
#include <linux/uidgid.h>
#include <linux/user_namespace.h>
#include <linux/xarray.h>

#include "internal.h"

/* By number, so that a reader who was at one finds the next at once, however many there are. */
static DEFINE_XARRAY_ALLOC1(pmk_opens);
/* Protects all lists of pins. Nothing is locked within. */
static DEFINE_SPINLOCK(pmk_pins_lock);
/* Pins that outlive their open: a driver may keep one wherever it likes. */
static LIST_HEAD(pmk_left);
static struct dentry *pmk_folder;

/* A page that the driver keeps. */
struct pmk_pin {
	struct list_head others;
	struct folio *folio;
	uid_t uid;
	struct pmk_pin_info info;
};

/* A process can take any name, and end; not so a user. */
static uid_t pmk_user(void)
{
	return from_kuid(&init_user_ns, current_uid());
}

void *pmk_pin_list(struct pmk_open *open, void *page, const struct pmk_pin_info *info)
{
	struct pmk_pin *pin = kmalloc(sizeof(*pin), GFP_KERNEL_ACCOUNT);

	if (!pin)
		return NULL;
	pin->folio = page;
	pin->uid = pmk_user();
	pin->info = *info;
	spin_lock(&pmk_pins_lock);
	list_add_tail(&pin->others, &open->pins);
	spin_unlock(&pmk_pins_lock);
	return pin;
}

void pmk_pin_unlist(void *listed)
{
	struct pmk_pin *pin = listed;

	spin_lock(&pmk_pins_lock);
	list_del(&pin->others);
	spin_unlock(&pmk_pins_lock);
	kfree(pin);
}

int pmk_open_list(struct pmk_open *open)
{
	static u32 last;
	int error;

	INIT_LIST_HEAD(&open->pins);
	refcount_set(&open->users, 1);
	open->since_ns = ktime_get_boottime_ns();
	open->uid = pmk_user();
	open->pid = pmk_caller(open->by);
	/* A positive answer says that the numbers have begun anew. */
	error = xa_alloc_cyclic(&pmk_opens, &open->number, open, XA_LIMIT(1, INT_MAX), &last, GFP_KERNEL_ACCOUNT);
	return error < 0 ? error : 0;
}

static void pmk_open_put(struct pmk_open *open)
{
	if (refcount_dec_and_test(&open->users)) {
		iput(open->inode);
		kfree(open);
	}
}

void pmk_open_unlist(struct pmk_open *open)
{
	xa_erase(&pmk_opens, open->number);
	spin_lock(&pmk_pins_lock);
	list_splice_tail_init(&open->pins, &pmk_left);
	spin_unlock(&pmk_pins_lock);
	pmk_open_put(open);
}

/* Gives the first open from a number on, for the caller to put. */
static struct pmk_open *pmk_open_from(unsigned long number)
{
	struct pmk_open *open;

	/* What is found is not gone before the lock is. */
	xa_lock(&pmk_opens);
	open = xa_find(&pmk_opens, &number, INT_MAX, XA_PRESENT);
	if (open)
		refcount_inc(&open->users);
	xa_unlock(&pmk_opens);
	return open;
}

/* ---- pages that somebody else keeps ---- */

struct pmk_others {
	u64 pages, for_transfers, first;
};

/* References of the driver's own: of pins. */
static long pmk_pins_of(struct pmk_open *open, struct folio *folio)
{
	struct pmk_pin *pin;
	long count = 0;

	spin_lock(&pmk_pins_lock);
	list_for_each_entry(pin, &open->pins, others)
		count += pin->folio == folio;
	spin_unlock(&pmk_pins_lock);
	return count;
}

/*
 * Looks for pages with references that nothing here accounts for: as at vmsplice, O_DIRECT, io_uring's registered buffers.
 * A page that is on its way to or from its LRU list has one, too; PG_lru tells of it. A folio that is freed at this moment
 * is looked at all the same, and by then may be anything, part of a larger one too, of which folio_test_lru wants to know
 * nothing; so what has references must still be here after the look.
 */
static struct pmk_others pmk_others(struct pmk_open *open)
{
	XA_STATE(xas, &open->inode->i_mapping->i_pages, 0);
	struct pmk_others others = { 0 };
	unsigned int looked = 0;
	struct folio *folio;

	rcu_read_lock();
	xas_for_each(&xas, folio, ULONG_MAX) {
		/* The page cache's, and one for each mapping. (Folios here are of one page.) */
		long known, more;

		if (xas_retry(&xas, folio) || xa_is_value(folio))
			continue;
		known = 1 + 1 + atomic_read(&folio->_mapcount) + !PageLRU(folio_page(folio, 0));
		more = folio_ref_count(folio) - known;
		if (more > 0 && more > pmk_pins_of(open, folio) && xas_reload(&xas) == folio) {
			if (!others.pages++)
				others.first = xas.xa_index;
			/* As folio_maybe_dma_pinned, which takes a thousand mappings for such a pin. */
			others.for_transfers += more >= GUP_PIN_COUNTING_BIAS;
		}
		if (++looked % 1024 == 0) {
			xas_pause(&xas);
			rcu_read_unlock();
			cond_resched();
			rcu_read_lock();
		}
	}
	rcu_read_unlock();
	return others;
}

/* ---- the file ---- */

/* Padded with zeros, from whoever; escaped, so that it ends where its quotes do, and is text whatever it was. */
static void pmk_show_name(struct seq_file *list, const char *key, const u8 *name, size_t most)
{
	seq_printf(list, " %s=\"", key);
	seq_escape_mem(list, name, strnlen(name, most), ESCAPE_ANY | ESCAPE_NAP | ESCAPE_APPEND, "\"\\");
	seq_putc(list, '"');
}

static void pmk_show_who(struct seq_file *list, const char *what, u32 pid, const u8 *by, uid_t uid, u64 since_ns)
{
	seq_printf(list, "%s pid=%u", what, pid);
	pmk_show_name(list, "by", by, TASK_COMM_LEN);
	seq_printf(list, " uid=%u for_ms=%llu", uid, div_u64(ktime_get_boottime_ns() - since_ns, NSEC_PER_MSEC));
}

static void pmk_show_pins(struct seq_file *list, const char *what, struct list_head *pins)
{
	struct pmk_pin *pin;

	spin_lock(&pmk_pins_lock);
	list_for_each_entry(pin, pins, others) {
		pmk_show_who(list, what, pin->info.pid, pin->info.by, pin->uid, pin->info.since_ns);
		seq_printf(list, " page=%llu frame=%#llx", pin->info.index, pmk_page_pfn(pin->folio));
		pmk_show_name(list, "name", pin->info.name, PMK_NAME_BYTES);
		seq_putc(list, '\n');
	}
	spin_unlock(&pmk_pins_lock);
}

static int pmk_opens_show(struct seq_file *list, void *at)
{
	struct pmk_open *open = at;
	struct pmk_others others;

	if (at == SEQ_START_TOKEN) {
		pmk_show_pins(list, "left", &pmk_left);
		return 0;
	}
	others = pmk_others(open);
	pmk_show_who(list, "open", open->pid, open->by, open->uid, open->since_ns);
	seq_printf(list, " size=%llu pages=%llu moved=%ld refused=%ld busy=%ld\n", pmk_len(open), pmk_count(open),
		   atomic_long_read(&open->moved), atomic_long_read(&open->refused), atomic_long_read(&open->busy));
	pmk_show_pins(list, "  pin", &open->pins);
	if (others.pages)
		seq_printf(list, "  others pages=%llu for_transfers=%llu first=%llu\n", others.pages, others.for_transfers,
			   others.first);
	return 0;
}

/* A place in the file is the number of an open; the first is before all opens. */
static void *pmk_opens_start(struct seq_file *list, loff_t *at)
{
	return *at ? pmk_open_from(*at) : SEQ_START_TOKEN;
}

static void pmk_opens_stop(struct seq_file *list, void *last)
{
	if (last && last != SEQ_START_TOKEN)
		pmk_open_put(last);
}

static void *pmk_opens_next(struct seq_file *list, void *last, loff_t *at)
{
	*at = last == SEQ_START_TOKEN ? 1 : ((struct pmk_open *)last)->number + 1;
	pmk_opens_stop(list, last);
	return pmk_open_from(*at);
}

static const struct seq_operations pmk_opens_sops = {
	.start = pmk_opens_start,
	.next = pmk_opens_next,
	.stop = pmk_opens_stop,
	.show = pmk_opens_show,
};
DEFINE_SEQ_ATTRIBUTE(pmk_opens);

/* What debugfs can't give, the driver can do without; so nothing here fails. */
void pmk_opens_init(const char *device)
{
	pmk_folder = debugfs_create_dir(device, NULL);
	debugfs_create_file("opens", 0400, pmk_folder, NULL, &pmk_opens_fops);
}

void pmk_opens_exit(void)
{
	debugfs_remove(pmk_folder);
}
