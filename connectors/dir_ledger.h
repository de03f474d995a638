/*
 * The ledger of the directory source: every file that was ever begun, in order, each with the range
 * of sequence numbers that its records have. Written ahead: a file's entry is durable before its
 * first record is appended, so the position of the one producer says where reading stands.
 * docs/directory.md has the format.
 */
#ifndef LEVEE_CONNECTORS_DIR_LEDGER_H
#define LEVEE_CONNECTORS_DIR_LEDGER_H

#include "runtime/context.h"

enum dir_flags {
    DIR_ENDED = 1,   /* read to its end: last, length and hash are known */
    DIR_VOID = 2,    /* nothing of it was taken: it does not count */
    DIR_CUT = 4,     /* what lay behind `last` was skipped, and reported */
    DIR_CHANGED = 8, /* it changed after its end; reported once */
    DIR_OPEN = 16    /* compressed: how long it is shows at its end; it is the newest until then */
};
struct dir_entry {
    uint64_t path_hash, inode, birth;
    int64_t mtime_ns;
    uint64_t size; /* of the file when it was begun */
    uint64_t base; /* its records are numbered base + 1 + their offset */
    uint64_t last; /* number of its last record; base: none */
    uint64_t hash; /* of the file's bytes */
    char *path;    /* NULL: only in the file of old entries */
    uint8_t flags;
};
struct dir_ledger {
    struct io *io;
    char path[IO_PATH_MAX]; /* the folder of its two files */
    char context[33], uid[65];
    struct dir_entry *entries;
    size_t count, cap;
    size_t old_count;             /* those in the file of old entries */
    struct map by_path, by_inode; /* hash → index of the newest */
    uint64_t next_base, generation, salt;
    struct io_file *tail;
    uint64_t tail_end, old_bytes;
    struct buf frame; /* what commit writes next */
    uint64_t frames;  /* written in this life */
};

#define DIR_NONE SIZE_MAX

/* Reads what is there, or begins anew. position: the last sequence that the log holds; a ledger
 * that does not reach it is refused. Errors: LEDGER, IO … */
int dir_ledger_open(struct dir_ledger *l, struct io *io, const char *state, const char *uid,
                    const char *context, uint64_t position, struct levee_error *err);
void dir_ledger_close(struct dir_ledger *l);

/* The entry of that name, or of that inode; DIR_NONE: none. */
size_t dir_ledger_by_path(const struct dir_ledger *l, const char *path);
size_t dir_ledger_by_inode(const struct dir_ledger *l, const struct io_stat *st);

/* Its name, from memory or disk. */
int dir_ledger_name(const struct dir_ledger *l, size_t index, char out[IO_PATH_MAX],
                    struct levee_error *err);

/* Changes, in memory at once and on disk with the next commit. */
int dir_ledger_begin(struct dir_ledger *l, const char *path, const struct io_stat *st, bool open,
                     size_t *ret_index, struct levee_error *err);
/* last: number of the last record (base: none); length: in bytes as offsets count. */
void dir_ledger_end(struct dir_ledger *l, size_t index, uint64_t last, uint64_t length,
                    uint64_t hash, bool was_cut);
void dir_ledger_void(struct dir_ledger *l, size_t index);
/* It goes by this name and these numbers now; changed: no longer what was read. */
int dir_ledger_know(struct dir_ledger *l, size_t index, const char *path, const struct io_stat *st,
                    bool changed, struct levee_error *err);
bool dir_ledger_dirty(const struct dir_ledger *l);
/* Durable when it returns. A failed sync is final: the context must stop. */
int dir_ledger_commit(struct dir_ledger *l, struct levee_error *err);
/* Is the file of recent entries long enough to be folded into that of old ones? Only between files:
 * indices change. */
bool dir_ledger_wants_fold(const struct dir_ledger *l);
int dir_ledger_fold(struct dir_ledger *l, uint64_t position, struct levee_error *err);

#endif
