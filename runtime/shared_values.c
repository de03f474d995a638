/*
 * Broadcasts and data sets of a context (4d.14).
 *
 *   swap ──file durable──▶ in force ──BATCH_OPEN names it──▶ seen ──no replay can see it──▶ removed
 *
 * Invariants. V1  a version's file is durable before any batch can see it, also one that a start
 * finds. V2  every batch pins the versions it sees, and names them in its BATCH_OPEN; a replay pins
 * those that were named. V3  the newest version whose file there is is in force after a start: a
 * swap that has returned is never taken back. V4  a file is removed only when its successor was
 * seen by a batch that every kept checkpoint holds, so no replay from any of them asks for it.
 */
#include "runtime/exec.h"

#include "runtime/context.h"

#include <inttypes.h>

/* ---- the list ---- */

/* Mutex held. */
static struct levee_shared *find(const struct rt_shared *all, const char *uid)
{
    for (size_t i = 0; i < all->count; i++) {
        if (strcmp(all->items[i]->uid, uid) == 0) {
            return all->items[i];
        }
    }
    return NULL;
}

static int check_uid(const struct rt_shared *all, const char *uid, struct levee_error *err)
{
    if (!uid || !rt_uid_valid(uid)) {
        return err_set(err, LEVEE_EGRAPH_UID, "a broadcast or data set needs a uid, not \"%s\"",
                       uid ? uid : "");
    }
    for (size_t i = 0; i < all->count; i++) {
        if (all->items[i]->table == rt_uid_hash(uid)) {
            return err_set(err, LEVEE_EGRAPH_UID,
                           "the uids %s and %s have the same hash: rename one", uid,
                           all->items[i]->uid);
        }
    }
    return LEVEE_OK;
}

/* Mutex held. */
static int add(levee_context *ctx, const char *uid, bool records, struct levee_slice initial,
               struct levee_shared **ret, struct levee_error *err)
{
    struct rt_shared *all = &ctx->shared;
    void *items = all->items;
    int code = check_uid(all, uid, err);

    if (code) {
        return code;
    }
    struct levee_shared *s = mem_zalloc(sizeof *s);
    if (!s || !mem_grow(&items, &all->cap, all->count + 1, sizeof *all->items)) {
        mem_free(s);
        return err_nomem(err, sizeof *s);
    }
    all->items = items;
    s->ctx = ctx;
    s->records = records;
    s->mutex = &all->mutex;
    s->table = rt_uid_hash(uid);
    s->index = (uint32_t)all->count;
    (void)snprintf(s->uid, sizeof s->uid, "%s", uid);
    (void)pthread_mutex_init(&s->swap_mutex, NULL);
    buf_put(&s->initial, initial.data, initial.len);
    all->items[all->count++] = s;
    *ret = s;
    return s->initial.failed ? err_nomem(err, initial.len) : LEVEE_OK;
}

/* ---- versions ---- */

static struct rt_version *in_force(const struct levee_shared *s)
{
    return s->count ? s->versions[s->count - 1] : NULL;
}

bool rt_shared_add(struct levee_shared *s, struct rt_version *v)
{
    void *all = s->versions;

    if (!mem_grow(&all, &s->cap, s->count + 1, sizeof *s->versions)) {
        return false;
    }
    s->versions = all;
    s->versions[s->count++] = v;
    return true;
}

/* Mutex held. Bytes of versions that are neither in force nor seen by a batch at work. */
static void forget_bytes(struct levee_shared *s)
{
    for (size_t i = 0; i + 1 < s->count; i++) {
        if (s->versions[i]->pins == 0) {
            rt_shared_unload(s->versions[i]);
        }
    }
}

/* The next version, durable (V1), then in force. swap_mutex held. */
static int swap(struct levee_shared *s, struct levee_slice content, struct levee_error *err)
{
    struct rt_version *v = mem_zalloc(sizeof *v);

    if (!v) {
        return err_nomem(err, sizeof *v);
    }
    v->table = s->table;
    v->number = levee_shared_version(s) + 1;
    int code = rt_shared_write(s, v, content, err);
    if (code == LEVEE_OK) {
        pthread_mutex_lock(s->mutex);
        code = rt_shared_add(s, v) ? LEVEE_OK : err_nomem(err, sizeof *v);
        forget_bytes(s);
        pthread_mutex_unlock(s->mutex);
    }
    if (code) {
        rt_shared_unload(v);
        mem_free(v);
    }
    return code;
}

/* What the checkpoint says of the version that was in force then. */
static void restore_first_batch(struct levee_shared *s)
{
    struct cursor c = cursor_of(buf_view(&s->ctx->shared.stored));

    while (cur_left(&c) && !c.bad) {
        uint32_t table = cur_u32(&c);
        uint64_t number = cur_u64(&c), hash = cur_u64(&c), first = cur_u64(&c);
        for (size_t i = 0; i < s->count && table == s->table && !c.bad; i++) {
            struct rt_version *v = s->versions[i];
            if (v->number == number && v->hash == hash) {
                v->first_batch = first;
            }
        }
    }
}

/* Its files, once; a first version where there is none. swap_mutex held. */
static int resolve(struct levee_shared *s, struct levee_error *err)
{
    int code;

    if (s->resolved) {
        return LEVEE_OK;
    }
    pthread_mutex_lock(s->mutex);
    code = rt_shared_list(s, err);
    bool any = s->count != 0;
    restore_first_batch(s);
    if (code == LEVEE_OK && any) {
        code = rt_shared_load(s, in_force(s), err);
    }
    pthread_mutex_unlock(s->mutex);
    if (code == LEVEE_OK && !any && (code = rt_shared_make_folder(s->ctx, err)) == LEVEE_OK) {
        code = swap(s, buf_view(&s->initial), err);
    }
    s->resolved = code == LEVEE_OK;
    return code;
}

int rt_shared_start(levee_context *ctx, struct levee_error *err)
{
    int code = rt_shared_tidy(ctx, err);

    for (size_t i = 0; i < ctx->shared.count && code == LEVEE_OK; i++) {
        code = resolve(ctx->shared.items[i], err);
    }
    return code;
}

static int open_one(levee_context *ctx, const char *uid, bool records, struct levee_slice initial,
                    struct levee_shared **ret, struct levee_error *err)
{
    int code = LEVEE_OK;

    if (!ctx || !ret) {
        return err_set(err, LEVEE_EINVALID, "a broadcast or data set: an argument is NULL");
    }
    pthread_mutex_lock(&ctx->shared.mutex);
    struct levee_shared *s = uid ? find(&ctx->shared, uid) : NULL;
    if (s && s->records != records) {
        code =
            err_set(err, LEVEE_EINVALID, "%s is a %s", uid, s->records ? "data set" : "broadcast");
    } else if (!s) {
        code = add(ctx, uid, records, initial, &s, err);
    }
    pthread_mutex_unlock(&ctx->shared.mutex);
    if (code == LEVEE_OK && s && atomic_load(&ctx->life) == RT_STARTED) {
        pthread_mutex_lock(&s->swap_mutex);
        code = resolve(s, err);
        pthread_mutex_unlock(&s->swap_mutex);
    }
    if (code == LEVEE_OK) {
        *ret = s;
    }
    return code;
}

static int swap_checked(struct levee_shared *s, bool records, struct levee_slice content,
                        struct levee_error *err)
{
    int code;

    if (!s || s->records != records) {
        return err_set(err, LEVEE_EINVALID, "this is no %s", records ? "data set" : "broadcast");
    }
    if ((code = io_check_fork(s->ctx->io, err)) != LEVEE_OK) {
        return code;
    }
    pthread_mutex_lock(&s->swap_mutex);
    code = s->resolved && atomic_load(&s->ctx->life) == RT_STARTED
               ? swap(s, content, err)
               : err_set(err, LEVEE_ESTATE, "%s: the context is %s", s->uid,
                         rt_life_name((enum rt_life)atomic_load(&s->ctx->life)));
    pthread_mutex_unlock(&s->swap_mutex);
    return code;
}

/* ---- batches ---- */

static struct rt_version *logged_version(const struct levee_shared *s, const struct rt_batch *b,
                                         const struct rt_shared_ref **ret_ref)
{
    const struct rt_logged_batch *l = b->logged;

    *ret_ref = NULL;
    for (size_t i = 0; l && i < l->shared_count; i++) {
        if (l->shared[i].table == s->table) {
            *ret_ref = &l->shared[i];
            for (size_t k = 0; k < s->count; k++) {
                if (s->versions[k]->number == l->shared[i].number &&
                    s->versions[k]->hash == l->shared[i].hash) {
                    return s->versions[k];
                }
            }
        }
    }
    return *ret_ref ? NULL : in_force(s);
}

int rt_shared_pin(struct rt_batch *b, struct levee_error *err)
{
    struct rt_shared *all = &b->ctx->shared;
    int code = LEVEE_OK;

    pthread_mutex_lock(&all->mutex);
    struct rt_version **seen = mem_zalloc((all->count + 1) * sizeof *seen);
    if (!seen) {
        code = err_nomem(err, all->count * sizeof *seen);
    }
    for (size_t i = 0; seen && i < all->count && code == LEVEE_OK; i++) {
        struct levee_shared *s = all->items[i];
        const struct rt_shared_ref *ref;
        struct rt_version *v = logged_version(s, b, &ref);
        if (!v && ref) {
            err_set(err, LEVEE_ESHARED,
                    "%s: version %" PRIu64 ", which batch %" PRIu64 " saw, is missing", s->uid,
                    ref->number, b->header.id);
            err_where(err, "%s/shared", b->ctx->dir.path);
            code = LEVEE_ESHARED;
        } else if (v && (code = rt_shared_load(s, v, err)) == LEVEE_OK) {
            v->pins++;
            v->first_batch = v->first_batch ? v->first_batch : b->header.id;
            seen[i] = v;
            b->shared_count = i + 1;
        }
    }
    pthread_mutex_unlock(&all->mutex);
    b->shared = seen;
    b->compute.shared = seen;
    b->compute.shared_count = b->shared_count;
    return code;
}

void rt_shared_unpin(struct rt_batch *b)
{
    struct rt_shared *all = &b->ctx->shared;

    pthread_mutex_lock(&all->mutex);
    for (size_t i = 0; b->shared && i < b->shared_count; i++) {
        if (b->shared[i] && --b->shared[i]->pins == 0) {
            forget_bytes(all->items[i]);
        }
    }
    pthread_mutex_unlock(&all->mutex);
    mem_free(b->shared);
    b->shared = NULL;
    b->shared_count = 0;
}

const struct rt_version *rt_shared_seen(const levee_output *out, const struct levee_shared *s)
{
    return s->index < out->shared_count ? out->shared[s->index] : NULL;
}

/* ---- checkpoints ---- */

void rt_shared_encode(levee_context *ctx, struct buf *ret)
{
    struct rt_shared *all = &ctx->shared;

    pthread_mutex_lock(&all->mutex);
    for (size_t i = 0; i < all->count; i++) {
        const struct levee_shared *s = all->items[i];
        for (size_t k = s->count; k-- > 0;) { /* the newest that the last computed batch saw */
            const struct rt_version *v = s->versions[k];
            if (v->first_batch && v->first_batch <= ctx->last_batch) {
                buf_u32(ret, s->table);
                buf_u64(ret, v->number);
                buf_u64(ret, v->hash);
                buf_u64(ret, v->first_batch);
                break;
            }
        }
    }
    pthread_mutex_unlock(&all->mutex);
}

/* How many of its versions are older than the one that batch m saw (V4). */
static size_t outlived(const struct levee_shared *s, uint64_t m)
{
    size_t n = s->count;

    while (n > 0 && (s->versions[n - 1]->first_batch == 0 || s->versions[n - 1]->first_batch > m)) {
        n--;
    }
    return n ? n - 1 : 0;
}

void rt_shared_trim(levee_context *ctx, uint64_t m)
{
    struct rt_shared *all = &ctx->shared;
    struct levee_error err = {0};

    pthread_mutex_lock(&all->mutex);
    for (size_t i = 0; i < all->count; i++) {
        struct levee_shared *s = all->items[i];
        for (size_t n = outlived(s, m); n > 0 && s->versions[0]->pins == 0; n--) {
            struct rt_version *v = s->versions[0];
            if (rt_shared_remove(s, v, &err) != LEVEE_OK) {
                break; /* it is looked at again behind the next checkpoint */
            }
            memmove(&s->versions[0], &s->versions[1], --s->count * sizeof *s->versions);
            rt_shared_unload(v);
            mem_free(v);
        }
    }
    pthread_mutex_unlock(&all->mutex);
}

void rt_shared_init(struct rt_shared *all)
{
    (void)pthread_mutex_init(&all->mutex, NULL);
}

void rt_shared_release(struct rt_shared *all)
{
    for (size_t i = 0; i < all->count; i++) {
        struct levee_shared *s = all->items[i];
        for (size_t k = 0; k < s->count; k++) {
            rt_shared_unload(s->versions[k]);
            mem_free(s->versions[k]);
        }
        mem_free(s->versions);
        buf_release(&s->initial);
        (void)pthread_mutex_destroy(&s->swap_mutex);
        mem_free(s);
    }
    mem_free(all->items);
    buf_release(&all->stored);
    (void)pthread_mutex_destroy(&all->mutex);
}

/* ---- the public side ---- */

int levee_broadcast_open(levee_context *ctx, const char *uid, struct levee_slice initial,
                         levee_broadcast **ret, struct levee_error *err)
{
    return open_one(ctx, uid, false, initial, ret, err);
}

int levee_broadcast_swap(levee_broadcast *b, struct levee_slice value, struct levee_error *err)
{
    return swap_checked(b, false, value, err);
}

struct levee_slice levee_broadcast_value(const levee_output *out, const levee_broadcast *b)
{
    const struct rt_version *v = rt_shared_seen(out, b);

    return v ? v->content : slice_of(NULL, 0);
}

int levee_dataset_open(levee_context *ctx, const char *uid, levee_dataset **ret,
                       struct levee_error *err)
{
    static const uint8_t none[1] = {0}; /* no records */

    return open_one(ctx, uid, true, slice_of(none, 1), ret, err);
}

int levee_dataset_swap(levee_dataset *d, const struct levee_record *records, size_t n,
                       struct levee_error *err)
{
    struct buf b = {0};

    buf_varint(&b, n);
    for (size_t i = 0; i < n; i++) {
        buf_slice(&b, records[i].key);
        buf_slice(&b, records[i].value);
        buf_u64(&b, (uint64_t)records[i].time_ms);
    }
    int code = b.failed ? err_nomem(err, b.len) : swap_checked(d, true, buf_view(&b), err);
    buf_release(&b);
    return code;
}

uint64_t levee_shared_version(const struct levee_shared *s)
{
    pthread_mutex_lock(s->mutex);
    uint64_t number = s->count ? in_force(s)->number : 0;
    pthread_mutex_unlock(s->mutex);
    return number;
}
