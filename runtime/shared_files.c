/*
 * Versions as files: <state>/shared/<hash of the uid>-<number>-<hash>, each written once, published
 * by rename, and verified as a whole before it is believed. Layout: magic, u8 1, slice uid, slice
 * content. A data set's content: varint count, then key, value and time of each record.
 */
#include "runtime/context.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define MAGIC    "LEVEESHR"
#define FOLDER   "shared"
#define NAME     64
#define NAME_LEN 42u

static int folder_of(const levee_context *ctx, char out[IO_PATH_MAX], struct levee_error *err)
{
    return io_path(out, ctx->dir.path, FOLDER, err);
}

int rt_shared_make_folder(levee_context *ctx, struct levee_error *err)
{
    char folder[IO_PATH_MAX];
    struct io *io = ctx->io;
    int code = folder_of(ctx, folder, err);

    if (code || (code = io->ops->mkdir(io, folder, err))) {
        return code;
    }
    return io->ops->sync_dir(io, ctx->dir.path, err);
}

static void name_of(const struct levee_shared *s, const struct rt_version *v, char out[NAME])
{
    (void)snprintf(out, NAME, "%08" PRIx32 "-%016" PRIx64 "-%016" PRIx64, s->table, v->number,
                   v->hash);
}

static int path_of(const struct levee_shared *s, const struct rt_version *v, char out[IO_PATH_MAX],
                   struct levee_error *err)
{
    char folder[IO_PATH_MAX], name[NAME];
    int code = folder_of(s->ctx, folder, err);

    name_of(s, v, name);
    return code ? code : io_path(out, folder, name, err);
}

static int bad(const struct levee_shared *s, const struct rt_version *v, const char *why,
               struct levee_error *err)
{
    char path[IO_PATH_MAX] = "";

    (void)path_of(s, v, path, NULL);
    err_set(err, LEVEE_ESHARED, "%s %s: version %" PRIu64 " %s",
            s->records ? "data set" : "broadcast", s->uid, v->number, why);
    err_where(err, "%s", path);
    return LEVEE_ESHARED;
}

static bool parse(const struct levee_shared *s, struct rt_version *v)
{
    struct cursor c = cursor_of(buf_view(&v->bytes));
    struct levee_slice magic = cur_bytes(&c, 8);
    uint8_t version = cur_u8(&c);
    struct levee_slice uid = cur_slice(&c);

    v->content = cur_slice(&c);
    return !c.bad && version == 1 && memcmp(magic.data, MAGIC, 8) == 0 &&
           slice_eq(uid, slice_str(s->uid)) && cur_left(&c) == 0;
}

int rt_shared_write(struct levee_shared *s, struct rt_version *v, struct levee_slice content,
                    struct levee_error *err)
{
    char folder[IO_PATH_MAX], name[NAME];
    int code = folder_of(s->ctx, folder, err);

    if (code) {
        return code;
    }
    buf_put(&v->bytes, MAGIC, 8);
    buf_u8(&v->bytes, 1);
    buf_slice(&v->bytes, slice_str(s->uid));
    buf_slice(&v->bytes, content);
    if (v->bytes.failed || v->bytes.len > RT_SHARED_MAX) {
        return v->bytes.failed ? err_nomem(err, content.len)
                               : err_set(err, LEVEE_ELIMIT, "%s: more than 1 GiB", s->uid);
    }
    v->hash = hash64(v->bytes.data, v->bytes.len, 0);
    ASSERT(parse(s, v));
    if (s->records && !rt_image_make(&v->image, v->content)) {
        return err_nomem(err, v->bytes.len);
    }
    name_of(s, v, name);
    return io_publish(s->ctx->io, folder, name, buf_view(&v->bytes), err);
}

int rt_shared_load(const struct levee_shared *s, struct rt_version *v, struct levee_error *err)
{
    char path[IO_PATH_MAX];
    int code;

    if (v->bytes.len) {
        return LEVEE_OK;
    }
    if ((code = path_of(s, v, path, err)) != LEVEE_OK) {
        return code;
    }
    code = io_read_file(s->ctx->io, path, RT_SHARED_MAX, &v->bytes, err);
    if (code == LEVEE_OK && (hash64(v->bytes.data, v->bytes.len, 0) != v->hash || !parse(s, v))) {
        code = bad(s, v, "is damaged", err);
    } else if (code == LEVEE_ENOTFOUND) {
        code = bad(s, v, "is missing", err);
    }
    if (code == LEVEE_OK && s->records && !rt_image_make(&v->image, v->content)) {
        code = err_nomem(err, v->bytes.len);
    }
    if (code) {
        rt_shared_unload(v);
    }
    return code;
}

void rt_shared_unload(struct rt_version *v)
{
    struct rt_image *i = &v->image;

    mem_free(i->records);
    mem_free(i->next);
    mem_free(i->first);
    mem_free(i->hashes);
    map_release(&i->map);
    *i = (struct rt_image){.count = 0};
    buf_release(&v->bytes);
    v->bytes = (struct buf){0};
    v->content = slice_of(NULL, 0);
}

int rt_shared_remove(const struct levee_shared *s, const struct rt_version *v,
                     struct levee_error *err)
{
    char path[IO_PATH_MAX];
    int code = path_of(s, v, path, err);

    return code ? code : s->ctx->io->ops->unlink(s->ctx->io, path, err);
}

/* A name of ours and of this object: what is read from it gives the same name again. */
static bool read_name(const struct levee_shared *s, const char *name, struct rt_version *ret)
{
    char again[NAME];

    if (strlen(name) != NAME_LEN) {
        return false;
    }
    ret->number = strtoull(name + 9, NULL, 16);
    ret->hash = strtoull(name + 26, NULL, 16);
    name_of(s, ret, again);
    return strcmp(name, again) == 0;
}

/* Names that a process death has left may be in memory only, and are made durable before a batch
 * can see what they name; a file that was being written is of no use to anybody. */
int rt_shared_tidy(levee_context *ctx, struct levee_error *err)
{
    char folder[IO_PATH_MAX], path[IO_PATH_MAX];
    struct io *io = ctx->io;
    struct io_list names = {0};
    struct io_stat st = {0};
    int code = folder_of(ctx, folder, err);

    if (code || (code = io->ops->stat(io, folder, &st, err)) || st.kind == IO_NONE ||
        (code = io->ops->sync_dir(io, folder, err)) ||
        (code = io->ops->list(io, folder, &names, err))) {
        return code;
    }
    for (size_t i = 0; i < names.count && code == LEVEE_OK; i++) {
        if (io_is_temp(names.items[i].name) &&
            (code = io_path(path, folder, names.items[i].name, err)) == LEVEE_OK) {
            code = io->ops->unlink(io, path, err);
        }
    }
    io_list_free(&names);
    return code;
}

int rt_shared_list(struct levee_shared *s, struct levee_error *err)
{
    char folder[IO_PATH_MAX];
    struct io_list names = {0};
    struct io *io = s->ctx->io;
    struct io_stat st = {0};
    int code = folder_of(s->ctx, folder, err);

    if (code == LEVEE_OK) {
        code = io->ops->stat(io, folder, &st, err);
    }
    if (code || st.kind == IO_NONE) {
        return code;
    }
    code = io->ops->list(io, folder, &names, err);
    for (size_t i = 0; i < names.count && code == LEVEE_OK; i++) { /* sorted, so by number */
        struct rt_version v = {.table = s->table}, *copy;
        if (!read_name(s, names.items[i].name, &v)) {
            continue;
        }
        copy = mem_alloc(sizeof *copy);
        if (copy) {
            *copy = v;
        }
        if (!copy || !rt_shared_add(s, copy)) {
            mem_free(copy);
            code = err_nomem(err, sizeof *copy);
        }
    }
    io_list_free(&names);
    return code;
}

/* ---- the image of a data set ---- */

uint32_t rt_image_find(const struct rt_image *i, struct levee_slice key, uint64_t hash)
{
    uint32_t pos = (uint32_t)hash & i->map.mask;
    struct map_slot *slot;

    while ((slot = map_probe(&i->map, hash, &pos)) != NULL) {
        struct levee_slice k = i->records[slot->index].key; /* absent and empty are one key */
        if (k.len == key.len && (k.len == 0 || memcmp(k.data, key.data, k.len) == 0)) {
            return slot->index;
        }
        pos = (pos + 1) & i->map.mask;
    }
    return UINT32_MAX;
}

/* last: of the chains that begin with these records, so far. */
static bool add_record(struct rt_image *i, uint32_t at, uint32_t *last)
{
    const struct levee_record *r = &i->records[at];
    uint64_t hash = hash_key(r->key.data, r->key.len);
    uint32_t first = rt_image_find(i, r->key, hash);
    bool known = first != UINT32_MAX;

    i->hashes[at] = hash;
    i->next[at] = UINT32_MAX;
    i->first[at] = known ? first : at;
    if (known) {
        i->next[last[first]] = at;
    }
    last[i->first[at]] = at;
    return known || map_insert(&i->map, hash, at);
}

bool rt_image_make(struct rt_image *ret, struct levee_slice content)
{
    struct cursor c = cursor_of(content);
    size_t n = (size_t)cur_varint(&c);
    struct rt_image i = {.count = n};

    if (c.bad || n > content.len || n > UINT32_MAX / 2) {
        return false;
    }
    i.records = mem_alloc((n + 1) * sizeof *i.records);
    i.next = mem_alloc((n + 1) * sizeof *i.next);
    i.first = mem_alloc((n + 1) * sizeof *i.first);
    i.hashes = mem_alloc((n + 1) * sizeof *i.hashes);
    uint32_t *last = mem_alloc((n + 1) * sizeof *last);
    bool ok =
        i.records && i.next && i.first && i.hashes && last && map_reserve(&i.map, (uint32_t)n + 1);
    for (size_t at = 0; at < n && ok; at++) {
        i.records[at].key = cur_slice(&c);
        i.records[at].value = cur_slice(&c);
        i.records[at].time_ms = (int64_t)cur_u64(&c);
        ok = !c.bad && add_record(&i, (uint32_t)at, last);
    }
    mem_free(last);
    *ret = i; /* what was made is released with the version */
    return ok;
}
