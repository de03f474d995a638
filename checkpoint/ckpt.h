/*
 * checkpoint: published versions of everything a context must remember. The one header of this
 * folder; formats, invariants and duties are in checkpoint/README.md.
 *
 * A *version* is one file, written once by one life: a step from the state after batch `from` (0 =
 * empty: then it is a base) to the state after exactly batch `to`. Its name is the manifest:
 * <sequence>-<from>-<to>-<size>-<hash>.ckpt (16 hex digits each). The state after batch b is any
 * path of verified files 0 → … → b; because a batch is a pure function, every path to b gives the
 * same state, and both ends' whole-state digests are stored in the file to prove it. Deltas and
 * folded deltas are thus the same thing.
 *
 * A file holds two named databases: "meta" (small, described by the runtime) and "data": packed
 * slices of tables (ckpt_slice_*) and small items that are stored whole in every file. Meta keys
 * must sort after
 * ".format", which the format writes itself.
 *
 * Thread: everything that takes a store belongs to one lane; slices, chains and cursors may be used
 * anywhere, by one thread at a time.
 */
#ifndef LEVEE_CKPT_H
#define LEVEE_CKPT_H

#include "io/io.h"

struct ckpt_version {
    uint64_t sequence, from, to, size, hash;
    char name[112];
    bool verified;        /* size and whole-file hash were checked in this life */
    bool bad;             /* differs from its name: never to be used */
    uint64_t replay_from; /* of batch `to`; from the file's meta, 0 until read */
};

struct ckpt_versions {
    struct ckpt_version *items; /* by sequence */
    size_t count, cap;
    struct io_list temps; /* temporary names to remove */
};

enum ckpt_db { CKPT_META = 0, CKPT_DATA = 1 };

/* The file format behind a version. Two exist with one contract: LMDB (the product) and flat (the
 * simulator, through io). */
struct ckpt_builder;
struct ckpt_reader;
struct ckpt_format {
    const char *name;
    /* Starts a file that does not exist yet. Items must be added in ascending key order per
     * database. */
    int (*begin)(struct io *io, const char *path, uint64_t bytes_hint, struct ckpt_builder **ret,
                 struct levee_error *err);
    int (*put)(struct ckpt_builder *b, enum ckpt_db db, struct levee_slice key,
               struct levee_slice value, struct levee_error *err);
    int (*commit)(struct ckpt_builder *b,
                  struct levee_error *err); /* closes the file; frees b, also on failure */
    void (*abandon)(struct ckpt_builder *b);
    /* Only for files whose whole hash was checked. Views stay valid until close. */
    int (*open)(struct io *io, const char *path, struct ckpt_reader **ret, struct levee_error *err);
    int (*get)(struct ckpt_reader *r, enum ckpt_db db, struct levee_slice key,
               struct levee_slice *ret,
               struct levee_error *err); /* NOTFOUND is a result, not a fault */
    /* Ascending; first with key >= *key_io when start is set, then the next ones. Returns NOTFOUND
     * at the end. */
    int (*seek)(struct ckpt_reader *r, enum ckpt_db db, struct levee_slice key,
                struct levee_error *err);
    int (*next)(struct ckpt_reader *r, enum ckpt_db db, struct levee_slice *ret_key,
                struct levee_slice *ret_value, struct levee_error *err);
    void (*close)(struct ckpt_reader *r);
};
extern const struct ckpt_format ckpt_format_lmdb;
extern const struct ckpt_format ckpt_format_flat;

/* ---- packed slices of tables: keys "t" + be32 table + be32 slice number in "data" ---- */
/*
 * An entry of a table: key → value with a small header. Entries are ordered by key group; the order
 * inside a group carries no meaning. `value.data == NULL` is a removal. Slices are cut at
 * CKPT_SLICE_BYTES, each with its own hash bound to table and slice number.
 */
struct ckpt_entry {
    uint32_t group;
    struct levee_slice key, value;
    uint64_t hash; /* hash_key(key) */
    int64_t touch_ms, timer_ms;
};
#define CKPT_SLICE_BYTES (256u << 10)

struct ckpt_slices { /* a packed, in-memory set of slices of one table: what gather makes and a file
                        stores */
    uint32_t table;  /* hash of the uid */
    struct buf bytes;
    struct ckpt_slice_mark {
        size_t offset, len;
        uint32_t first_group, last_group, count;
    } * marks;
    size_t mark_count, mark_cap;
    uint64_t entries;
    uint64_t drop_before;  /* reserved for retained edges; 0 */
    uint32_t first_number; /* of marks[0]: a fold stores sealed slices and goes on */
    int64_t touch_ms;      /* of the last entry */
    bool open;             /* the last mark is not sealed yet */
    bool failed;           /* sticky: no memory */
};
void ckpt_slices_init(struct ckpt_slices *s, uint32_t table);
void ckpt_slices_add(struct ckpt_slices *s, const struct ckpt_entry *e); /* groups ascending */
/* Seals the last slice; NOMEM when anything before failed. */
int ckpt_slices_finish(struct ckpt_slices *s, struct levee_error *err);
void ckpt_slices_release(struct ckpt_slices *s);

/* Reads one slice; verifies its hash first. Views point into the slice. */
struct ckpt_slice_cursor {
    struct cursor c;
    uint32_t table, number, left;
    uint32_t group, last_group;
    int64_t touch_ms;
};
int ckpt_slice_open(struct levee_slice bytes, uint32_t table, uint32_t number,
                    struct ckpt_slice_cursor *ret, struct levee_error *err);
bool ckpt_slice_next(struct ckpt_slice_cursor *s, struct ckpt_entry *ret); /* false: end */
/* After the end: OK, or CKPT_CORRUPT when the end came early. Every reader asks. */
int ckpt_slice_close(const struct ckpt_slice_cursor *s, struct levee_error *err);

/* ---- a store: a directory of versions ---- */
struct ckpt_store {
    struct io *io;
    const struct ckpt_format *format;
    char dir[IO_PATH_MAX];
    struct ckpt_versions versions; /* what exists; changed by list, publish and remove only */
    uint64_t next_sequence;
    bool names_durable; /* the directory was synced since it was listed */
};
int ckpt_store_init(struct ckpt_store *s, struct io *io, const struct ckpt_format *format,
                    const char *dir);
void ckpt_store_release(struct ckpt_store *s);
/* Lists names; touches nothing. Unknown names are ignored. */
int ckpt_store_list(struct ckpt_store *s, struct levee_error *err);
/* Checks size and whole-file hash by pread; sets verified or bad. LEVEE_OK also when bad (a fact).
 * Errors: IO (then bad too: an unreadable file cannot be used; the caller decides whether to set it
 * aside), NOMEM, LIMIT, ACCESS (neither verified nor bad). */
int ckpt_store_verify(struct ckpt_store *s, struct ckpt_version *v, struct levee_error *err);

/* What goes into one version. Small items: sorted by key by the caller; `meta` likewise. */
struct ckpt_item {
    struct levee_slice key, value;
};
struct ckpt_content {
    uint64_t from, to;
    const struct ckpt_item *meta;
    size_t meta_count;
    const struct ckpt_item *small; /* keys begin with 's': whole in every version */
    size_t small_count;
    const struct ckpt_slices *tables; /* sorted by table */
    size_t table_count;
};
/*
 * Writes, closes, hashes by pread, writes back in 256 KiB pieces, reads back, syncs, renames, syncs
 * the directory (the one point at which batch `to` becomes a version). On failure nothing is
 * published and a failed sync is final for that file: CKPT_FAILED (FATAL), or NOSPACE, NOMEM, LIMIT
 * (the file was removed again; may be tried later), FULL (the chain has CKPT_CHAIN_MAX files: fold
 * first). The version joins the list; indices into it may shift. Thread: the checkpoint lane.
 */
int ckpt_publish(struct ckpt_store *s, const struct ckpt_content *content, uint64_t replay_from,
                 struct ckpt_version *ret, struct levee_error *err);
/* Moves a bad file into quarantine/ (never deletes evidence); it stays in the list, as bad. */
int ckpt_set_aside(struct ckpt_store *s, struct ckpt_version *v, struct levee_error *err);
/* Unlinks the file, or sets it aside when it is bad, and takes it from the list: indices shift. */
int ckpt_remove(struct ckpt_store *s, const struct ckpt_version *v, struct levee_error *err);
/* At start only: a temporary name of this life may be a fold in progress. */
int ckpt_remove_temps(struct ckpt_store *s, struct levee_error *err);

/* ---- chains: pure functions over versions (checkpoint/chain.c) ---- */
#define CKPT_CHAIN_MAX 64
struct ckpt_chain {
    uint32_t index[CKPT_CHAIN_MAX]; /* into versions.items, first the base */
    size_t count;
    uint64_t to; /* 0: empty chain */
};
/* The path of files that are not bad to the highest batch; fewest files, then newest sequences,
 * among equals. */
void ckpt_chain_best(const struct ckpt_versions *v, struct ckpt_chain *ret);
/* The largest m for which two paths without a common file both reach a batch >= m; 0 if there are
 * none. Both paths in ret. Counts only files that were verified (or published) in this life, for
 * the log is trimmed by the answer. */
uint64_t ckpt_chain_disjoint(const struct ckpt_versions *v, struct ckpt_chain ret[2]);
/* Says of each file whether retention must keep it: the best chain and the disjoint pairs. keep[]
 * has v->count places and all are written; a caller with pins sets theirs afterwards. Removing the
 * others never shortens the best chain nor lowers ckpt_chain_disjoint. */
void ckpt_retain(const struct ckpt_versions *v, bool *keep);
/* Whether and what to fold next: false when nothing is due. Due are fold_every (0: 4, at most 16)
 * files of the best chain beyond the batch that two disjoint chains reach; a fold always ends at
 * the best chain's end. The rule is in checkpoint/fold_plan.c. */
struct ckpt_fold_plan {
    uint64_t from, to;
    struct ckpt_chain parts;
};
bool ckpt_fold_due(const struct ckpt_versions *v, uint32_t fold_every, struct ckpt_fold_plan *ret);

/*
 * A fold in progress: merges the parts group by group into one new file with the same `to`, in
 * small steps so that the lane's owner can pace it. Small items and meta are the last part's.
 * Memory: one key group at a time.
 */
struct ckpt_fold;
int ckpt_fold_begin(struct ckpt_store *s, const struct ckpt_fold_plan *plan, struct ckpt_fold **ret,
                    struct levee_error *err);
/* One step of about max_bytes; *ret_done when the new version is published (then *ret is it). */
int ckpt_fold_step(struct ckpt_fold *f, size_t max_bytes, bool *ret_done, struct ckpt_version *ret,
                   struct levee_error *err);
void ckpt_fold_free(struct ckpt_fold *f);

/* ---- reading a chain (recovery) ---- */
struct ckpt_load_ops {
    /* Called for every entry, parts in order: a later one replaces an earlier one of the same key.
     */
    int (*entry)(void *arg, uint32_t table, const struct ckpt_entry *e, struct levee_error *err);
    /* Meta and small items: of the last part only. */
    int (*item)(void *arg, enum ckpt_db db, struct levee_slice key, struct levee_slice value,
                struct levee_error *err);
};
/* Every part must be verified. Hands out entries and items; checks slice hashes. */
int ckpt_load(struct ckpt_store *s, const struct ckpt_chain *chain, const struct ckpt_load_ops *ops,
              void *arg, struct levee_error *err);
/* Meta of one version (verified): a copy of the value of `key` into ret. NOTFOUND if absent. */
int ckpt_read_meta(struct ckpt_store *s, const struct ckpt_version *v, struct levee_slice key,
                   struct buf *ret, struct levee_error *err);
/* Fills v->replay_from of a verified version from its meta value "replay-from" (u64 LE). */
int ckpt_read_replay_from(struct ckpt_store *s, struct ckpt_version *v, struct levee_error *err);

#endif
