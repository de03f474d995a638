/*
 * Broadcasts and data sets: contents in versions, of which a batch sees one
 * (runtime/shared_values.c, shared_files.c; operators/join_dataset.c).
 */
#ifndef LEVEE_RT_SHARED_VALUES_H
#define LEVEE_RT_SHARED_VALUES_H

#include <pthread.h>

#include "base/base.h"
#include "levee/shared.h"

#define RT_SHARED_MAX ((size_t)1 << 30) /* bytes of a version */

/* A data set's records, found by key. Those of a key hang in their order from `first` by next[]. */
struct rt_image {
    struct levee_record *records; /* views into the version's bytes */
    uint32_t *next, *first;       /* UINT32_MAX: last. first: of all under the record's key */
    uint64_t *hashes;
    size_t count;
    struct map map; /* hash of the key → its first record */
};
struct rt_version {
    uint32_t table;        /* whose */
    uint64_t number, hash; /* hash: of the whole file; both are in its name */
    uint64_t first_batch;  /* the first that saw it; 0: none that is known */
    struct buf bytes;      /* the file; empty: not loaded */
    struct levee_slice content;
    struct rt_image image;
    uint32_t pins; /* batches that see it */
};
struct levee_shared {
    levee_context *ctx;
    char uid[65];
    uint32_t table, index;
    bool records; /* a data set */
    struct buf initial;
    struct rt_version **versions; /* by number; the last is in force */
    size_t count, cap;
    bool resolved;              /* its files are known: the context has started */
    pthread_mutex_t swap_mutex; /* one swap at a time */
    pthread_mutex_t *mutex;     /* the registry's */
};
struct rt_shared {
    pthread_mutex_t mutex; /* guards the list, and every list of versions and its pins */
    struct levee_shared **items;
    size_t count, cap;
    struct buf stored; /* the checkpoint's item, until its objects are resolved */
};

/* What the batch behind `out` sees of it; NULL: there was none yet. (shared_values.c) */
const struct rt_version *rt_shared_seen(const levee_output *out, const struct levee_shared *s);

/* Behind the others; mutex held. false: no memory. (shared_values.c) */
bool rt_shared_add(struct levee_shared *s, struct rt_version *v);

/* ---- shared_files.c ---- */
/* At a start, before anything of it is read. */
int rt_shared_tidy(levee_context *ctx, struct levee_error *err);
/* The first version ever is about to be written. */
int rt_shared_make_folder(levee_context *ctx, struct levee_error *err);
/* Content into v->bytes, number and hash; then the file, durable. */
int rt_shared_write(struct levee_shared *s, struct rt_version *v, struct levee_slice content,
                    struct levee_error *err);
/* The versions whose files there are, by number, not loaded. */
int rt_shared_list(struct levee_shared *s, struct levee_error *err);
/* Bytes, content and image of a version. */
int rt_shared_load(const struct levee_shared *s, struct rt_version *v, struct levee_error *err);
void rt_shared_unload(struct rt_version *v);
int rt_shared_remove(const struct levee_shared *s, const struct rt_version *v,
                     struct levee_error *err);
/* Of loaded records. */
bool rt_image_make(struct rt_image *ret, struct levee_slice content);
/* The first record under the key; UINT32_MAX: none. */
uint32_t rt_image_find(const struct rt_image *i, struct levee_slice key, uint64_t hash);

#endif
