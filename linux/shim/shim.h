/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The calls between C and Rust. kit/src/kernel.rs has the same list; keep both in sync.
 */
#ifndef PMK_SHIM_H
#define PMK_SHIM_H

#include <linux/stddef.h>
#include <linux/types.h>

/* The largest argument of an ioctl. */
#define PMK_ARGUMENT_BYTES 128

/* The longest name of a pin. */
#define PMK_NAME_BYTES 24

struct pmk_open;

/* The description of a pin: the same as PinInfo in kit/src/pin.rs. Names are padded with zeros. */
struct pmk_pin_info {
	u64 index;
	u8 name[PMK_NAME_BYTES];
	u32 pid;
	u8 by[16];
	u64 since_ns;
};
_Static_assert(sizeof(struct pmk_pin_info) == 64 && offsetof(struct pmk_pin_info, since_ns) == 56, "as in pin.rs");

/* C for Rust. */
void *pmk_page_get(struct pmk_open *open, u64 index, bool create, int *error);
void pmk_page_put(void *page);
void *pmk_page_address(void *page);
u64 pmk_page_pfn(void *page);
void *pmk_pin_list(struct pmk_open *open, void *page, const struct pmk_pin_info *info);
void pmk_pin_unlist(void *listed);
void pmk_resize(struct pmk_open *open, u64 pages);
void pmk_free_range(struct pmk_open *open, u64 first, u64 pages);
u64 pmk_len(struct pmk_open *open);
u64 pmk_count(struct pmk_open *open);
void *pmk_alloc(size_t bytes);
void pmk_free(void *memory);
size_t pmk_copy_to_user(void __user *to, const void *from, size_t bytes);
size_t pmk_copy_from_user(void *to, const void __user *from, size_t bytes);
u64 pmk_now_ns(void);
u32 pmk_caller(u8 name[16]);
bool pmk_caller_is_administrator(void);
void pmk_panic(void) __noreturn;

/* Rust for C. */
const char *pmk_rust_name(void);
void *pmk_rust_open(struct pmk_open *open, int *error);
void pmk_rust_close(void *state);
void pmk_rust_free(void *state);
long pmk_rust_read(struct pmk_open *open, void *state, s64 at, void __user *to, size_t bytes);
long pmk_rust_write(struct pmk_open *open, void *state, s64 at, const void __user *from, size_t bytes);
long pmk_rust_ioctl(struct pmk_open *open, void *state, u32 command, u8 *argument, size_t bytes);
int pmk_rust_isolate(void *state, u64 index, u64 pfn, int mode);
void pmk_rust_migrate(void *state, u64 index, u64 from, u64 to, int mode);
void pmk_rust_putback(void *state, u64 index, u64 pfn, int mode);

#endif
