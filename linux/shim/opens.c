// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The debugfs file `opens`: every open of the device, the outcome of its moves, and who pins its pages.
 *
 * A page that the driver keeps beyond a call is listed for exactly that time, whoever has descriptors. No name can look
 * like another line. A reader never delays moves: it takes no lock and no references while it looks at pages. It delays
 * opening and pinning only while it prints one open's pins.
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

/* Indexed by number, so that a reader finds the next open without a walk. */
static DEFINE_XARRAY_ALLOC1(pmk_opens);
/* Protects all lists of pins. A leaf lock. */
static DEFINE_SPINLOCK(pmk_pins_lock);
/* Pins that outlive their open: a driver may keep one anywhere. */
static LIST_HEAD(pmk_left);
static struct dentry *pmk_folder;

/* A page that the driver pins. */
struct pmk_pin {
	struct list_head others;
	struct folio *folio;
	uid_t uid;
	struct pmk_pin_info info;
};

/* A process can end and can take any name; its user is more reliable. */
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
	/* 1 means that the numbers have wrapped. */
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

/* Finds the first open with at least this number; the caller puts it. */
static struct pmk_open *pmk_open_from(unsigned long number)
{
	struct pmk_open *open;

	/* An open can't be freed while it is in the array and the lock is held. */
	xa_lock(&pmk_opens);
	open = xa_find(&pmk_opens, &number, INT_MAX, XA_PRESENT);
	if (open)
		refcount_inc(&open->users);
	xa_unlock(&pmk_opens);
	return open;
}

/* ---- pages held by others ---- */

struct pmk_others {
	u64 pages, for_transfers, first;
};

/* The driver's own references: its pins. */
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
 * Counts pages with unaccounted references: vmsplice, O_DIRECT, io_uring's registered buffers. A page on its way to or
 * from its LRU list also has one; PG_lru is clear then. A folio may be freed during the look, and even become part of a
 * larger one, on which folio_test_lru would complain. So the folio must still be in the page cache afterwards.
 */
static struct pmk_others pmk_others(struct pmk_open *open)
{
	XA_STATE(xas, &open->inode->i_mapping->i_pages, 0);
	struct pmk_others others = { 0 };
	unsigned int looked = 0;
	struct folio *folio;

	rcu_read_lock();
	xas_for_each(&xas, folio, ULONG_MAX) {
		/* The page cache's reference, and one for each mapping. (Folios here have one page.) */
		long known, more;

		if (xas_retry(&xas, folio) || xa_is_value(folio))
			continue;
		known = 1 + 1 + atomic_read(&folio->_mapcount) + !PageLRU(folio_page(folio, 0));
		more = folio_ref_count(folio) - known;
		if (more > 0 && more > pmk_pins_of(open, folio) && xas_reload(&xas) == folio) {
			if (!others.pages++)
				others.first = xas.xa_index;
			/* As folio_maybe_dma_pinned, which also mistakes a thousand mappings for such a pin. */
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

/* The name is padded with zeros and not trusted: escaped, so that it can't end the quotes or the line. */
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

/* The file position is an open's number; 0 comes before all opens. */
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

/* Nothing here fails, because the driver works without debugfs. */
void pmk_opens_init(const char *device)
{
	pmk_folder = debugfs_create_dir(device, NULL);
	debugfs_create_file("opens", 0400, pmk_folder, NULL, &pmk_opens_fops);
}

void pmk_opens_exit(void)
{
	debugfs_remove(pmk_folder);
}
