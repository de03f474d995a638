/* What the files of this folder share and nobody else may see. */
#ifndef LEVEE_CKPT_IMPL_H
#define LEVEE_CKPT_IMPL_H

#include "checkpoint/ckpt.h"

/* ---- slices (slice.c) ---- */
#define CKPT_SLICE_KEY 9
void ckpt_slice_key(uint8_t ret[CKPT_SLICE_KEY], uint32_t table, uint32_t number);
bool ckpt_slice_key_parse(struct levee_slice key, uint32_t *ret_table, uint32_t *ret_number);
/* Drops the sealed slices, once they were stored; the open one stays. Numbers go on. */
void ckpt_slices_flush(struct ckpt_slices *s);
/* Empty, for another table, with the memory it has. */
void ckpt_slices_restart(struct ckpt_slices *s, uint32_t table);

/* The order slices must have in a file: per table numbered from 0 without a gap (load.c). */
struct ckpt_slice_order {
    bool any;
    uint32_t table, number; /* of the slice before */
};
int ckpt_slice_order_check(struct ckpt_slice_order *o, struct levee_slice key, uint32_t *ret_table,
                           uint32_t *ret_number, struct levee_error *err);

/* ---- meta keys the formats and folds know; the rest is the runtime's ---- */
#define CKPT_KEY_FORMAT      ".format" /* written by the format itself, first of all keys */
#define CKPT_KEY_DIGEST_FROM "digest-from"
#define CKPT_KEY_REPLAY_FROM "replay-from"
/* LMDB's limit on keys; the flat format keeps it too. */
#define CKPT_KEY_MAX 511

/* ---- names and the list (store.c) ---- */
/* Folding and retention keep about 20. More than this is not our doing, and chains are computed in
 * fixed memory. */
#define CKPT_VERSIONS_MAX 256
/* Fills v->hash and v->name from its numbers and the hash of the file's bytes. */
void ckpt_version_seal(struct ckpt_version *v, uint64_t file_hash);
int ckpt_version_path(const struct ckpt_store *s, const struct ckpt_version *v,
                      char ret[IO_PATH_MAX], struct levee_error *err);
int ckpt_store_reserve(struct ckpt_store *s, struct levee_error *err);
void ckpt_store_add(struct ckpt_store *s, const struct ckpt_version *v); /* after a reserve */
/* True when the shortest chain to `from` has CKPT_CHAIN_MAX files already (chain.c). */
bool ckpt_chain_full(const struct ckpt_versions *v, uint64_t from);

/*
 * One file on its way from a temporary name to a version (publish.c). Put everything, then step
 * until done. After any failure the file is settled (removed, or left when its sync failed) and
 * only release is allowed.
 */
enum ckpt_pub_phase {
    CKPT_PUB_BUILD, /* items are being put */
    CKPT_PUB_HASH,  /* hashed by pread, written back piece by piece */
    CKPT_PUB_CHECK, /* read back through the format and compared with what was put */
    CKPT_PUB_SYNC,  /* from here on a failure is final for the file */
    CKPT_PUB_DONE   /* published, or failed and settled */
};

struct ckpt_fingerprint { /* of a sequence of items: order, keys and values all count */
    uint64_t items, hash;
};

struct ckpt_pub {
    struct ckpt_store *store;
    struct ckpt_version version;
    char temp[IO_PATH_MAX];
    enum ckpt_pub_phase phase;
    struct ckpt_builder *builder;
    struct ckpt_reader *reader;
    struct io_file
        *file; /* open since before the first item: no write-back error can pass unseen */
    struct hash_stream *hash;
    uint8_t *piece;
    struct ckpt_fingerprint put[2], read[2]; /* by database */
    enum ckpt_db checking;
    uint64_t offset, size;
};
int ckpt_pub_begin(struct ckpt_pub *p, struct ckpt_store *s, uint64_t from, uint64_t to,
                   uint64_t bytes_hint, struct levee_error *err);
int ckpt_pub_put(struct ckpt_pub *p, enum ckpt_db db, struct levee_slice key,
                 struct levee_slice value, struct levee_error *err);
/* All sealed slices of one table. */
int ckpt_pub_put_slices(struct ckpt_pub *p, const struct ckpt_slices *s, struct levee_error *err);
/* Everything was put. */
int ckpt_pub_commit(struct ckpt_pub *p, struct levee_error *err);
/* About max_bytes of checking or hashing, or the last act. */
int ckpt_pub_step(struct ckpt_pub *p, size_t max_bytes, bool *ret_done, struct ckpt_version *ret,
                  struct levee_error *err);
/* Gives up what is not published. */
void ckpt_pub_release(struct ckpt_pub *p);

#endif
