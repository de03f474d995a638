/*
 * Private to the ledger. dir_ledger.c: entries, changes, life. dir_ledger_disk.c: the two files.
 */
#ifndef LEVEE_CONNECTORS_DIR_LEDGER_IMPL_H
#define LEVEE_CONNECTORS_DIR_LEDGER_IMPL_H

#include "connectors/dir_ledger.h"

#define TAIL          "files.tail"
#define SEEN          "files.seen"
#define TAIL_MAGIC    "LEVEETAI"
#define SEEN_MAGIC    "LEVEESEE"
#define FRAME_MAGIC   0x4d524644u /* DFRM */
#define VERSION       1u
#define BLOCK         4096u
#define FRAME_HEADER  16u
#define FRAME_MAX     (64u << 20)
#define SEEN_MAX      ((size_t)16 << 30)
#define FOLD_AT_LEAST (1u << 20)

/* ---- dir_ledger.c ---- */
int dir_ledger_refuse(const struct dir_ledger *l, const char *name, const char *why,
                      struct levee_error *err);
/* Room for one more, in the array and in both maps. */
bool dir_ledger_reserve(struct dir_ledger *l);
void dir_ledger_add_entry(struct dir_ledger *l, const struct dir_entry *e);
uint64_t dir_ledger_path_hash(struct levee_slice path);
/* One change out of a frame; false: it makes no sense. */
bool dir_ledger_apply(struct dir_ledger *l, struct cursor *c, int *ret_code,
                      struct levee_error *err);

/* ---- dir_ledger_disk.c ---- */
void dir_ledger_begin_frame(struct dir_ledger *l);
/* An empty tail of that generation, by rename. */
int dir_ledger_publish_tail(struct dir_ledger *l, uint64_t generation, struct levee_error *err);
int dir_ledger_read_tail(struct dir_ledger *l, struct levee_slice tail, bool *ret_void,
                         struct levee_error *err);
int dir_ledger_read_if_there(const struct dir_ledger *l, const char *name, struct buf *ret,
                             bool *ret_there, struct levee_error *err);
int dir_ledger_read_old(struct dir_ledger *l, struct levee_slice bytes, struct levee_error *err);

#endif
