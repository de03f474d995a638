/*
 * The ledger's two files: frames of the tail, old entries, and folding the one into the other
 * (dir_ledger.c has the layout and why).
 */
#include "connectors/dir_ledger_impl.h"

#include <inttypes.h>

/* ---- the tail ---- */

bool dir_ledger_dirty(const struct dir_ledger *l)
{
    return l->frame.len > FRAME_HEADER;
}

void dir_ledger_begin_frame(struct dir_ledger *l)
{
    static const uint8_t nothing[FRAME_HEADER];

    buf_clear(&l->frame);
    buf_put(&l->frame, nothing, sizeof nothing);
}

static uint64_t frame_hash(const struct dir_ledger *l, uint64_t offset, const uint8_t *frame,
                           size_t len)
{
    return hash64(frame + FRAME_HEADER, len, hash64(frame, 8, l->salt ^ offset));
}

int dir_ledger_commit(struct dir_ledger *l, struct levee_error *err)
{
    static const uint8_t zeros[BLOCK];
    size_t len = l->frame.len;

    if (!dir_ledger_dirty(l) && !l->frame.failed) {
        return LEVEE_OK;
    }
    buf_put(&l->frame, zeros, (BLOCK - len % BLOCK) % BLOCK);
    if (l->frame.failed) {
        return err_nomem(err, len);
    }
    uint8_t *f = l->frame.data;
    put_le32(f, FRAME_MAGIC);
    put_le32(f + 4, (uint32_t)(len - FRAME_HEADER));
    put_le64(f + 8, frame_hash(l, l->tail_end, f, len - FRAME_HEADER));
    struct iovec iov = {f, l->frame.len};
    int code = l->io->ops->pwritev(l->tail, &iov, 1, l->tail_end, err);
    crash_at(l->io, CP_LEDGER_AFTER_WRITE);
    if (code == LEVEE_OK) {
        code = l->io->ops->sync(l->tail, err);
        crash_at(l->io, CP_LEDGER_AFTER_SYNC);
    }
    if (code == LEVEE_OK) {
        l->tail_end += l->frame.len;
        l->frames++;
        dir_ledger_begin_frame(l);
    }
    return code;
}

static bool frame_at(const struct dir_ledger *l, struct levee_slice tail, uint64_t offset,
                     struct levee_slice *ret)
{
    const uint8_t *f = tail.data + offset;
    uint64_t left = tail.len - offset;

    if (left < FRAME_HEADER || get_le32(f) != FRAME_MAGIC) {
        return false;
    }
    uint32_t len = get_le32(f + 4);
    if (len > FRAME_MAX || len > left - FRAME_HEADER ||
        get_le64(f + 8) != frame_hash(l, offset, f, len)) {
        return false;
    }
    *ret = slice_of(f + FRAME_HEADER, len);
    return true;
}

static int read_frames(struct dir_ledger *l, struct levee_slice tail, struct levee_error *err)
{
    uint64_t at = BLOCK;
    struct levee_slice payload;

    while (at < tail.len && frame_at(l, tail, at, &payload)) {
        struct cursor c = cursor_of(payload);
        while (cur_left(&c)) {
            int code;
            if (!dir_ledger_apply(l, &c, &code, err)) {
                return dir_ledger_refuse(l, TAIL, "does not parse", err);
            }
            if (code) {
                return code;
            }
        }
        at += (FRAME_HEADER + payload.len + BLOCK - 1) / BLOCK * BLOCK;
    }
    for (uint64_t later = at + BLOCK; later < tail.len; later += BLOCK) {
        if (frame_at(l, tail, later, &payload)) {
            (void)dir_ledger_refuse(l, TAIL, "is damaged", err);
            err_expected(err, "a frame at offset %" PRIu64, at);
            err_found(err, "the next that verifies at %" PRIu64, later);
            return LEVEE_ELEDGER;
        }
    }
    l->tail_end = at; /* what a torn frame left is written over; it can never verify */
    return LEVEE_OK;
}

static void put_identity(const struct dir_ledger *l, struct buf *b, const char *magic,
                         uint64_t generation)
{
    buf_put(b, magic, 8);
    buf_u32(b, VERSION);
    buf_u64(b, generation);
    buf_slice(b, slice_str(l->context));
    buf_slice(b, slice_str(l->uid));
}

/* Whose file is this? */
static int check_identity(const struct dir_ledger *l, struct cursor *c, const char *name,
                          const char *magic, uint64_t *ret_generation, struct levee_error *err)
{
    struct levee_slice m = cur_bytes(c, 8);
    uint32_t version = cur_u32(c);

    *ret_generation = cur_u64(c);
    struct levee_slice context = cur_slice(c), uid = cur_slice(c);
    if (c->bad || memcmp(m.data, magic, 8) != 0) {
        return dir_ledger_refuse(l, name, "does not begin as ours do", err);
    }
    if (version > VERSION) {
        return dir_ledger_refuse(l, name, "was written by a newer levee", err);
    }
    if (!slice_eq(context, slice_str(l->context)) || !slice_eq(uid, slice_str(l->uid))) {
        return dir_ledger_refuse(l, name, "belongs to another context or source", err);
    }
    return LEVEE_OK;
}

/* An empty tail of that generation, by rename. */
int dir_ledger_publish_tail(struct dir_ledger *l, uint64_t generation, struct levee_error *err)
{
    static const uint8_t zeros[BLOCK];
    struct buf b = {0};

    put_identity(l, &b, TAIL_MAGIC, generation);
    buf_u64(&b, l->io->ops->random(l->io));
    buf_u64(&b, hash64(b.data, b.len, 0));
    buf_put(&b, zeros, BLOCK - b.len);
    int code =
        b.failed ? err_nomem(err, BLOCK) : io_publish(l->io, l->path, TAIL, buf_view(&b), err);
    buf_release(&b);
    return code;
}

int dir_ledger_read_tail(struct dir_ledger *l, struct levee_slice tail, bool *ret_void,
                         struct levee_error *err)
{
    struct cursor c = cursor_of(tail);
    uint64_t generation;
    int code = check_identity(l, &c, TAIL, TAIL_MAGIC, &generation, err);

    if (code) {
        return code;
    }
    l->salt = cur_u64(&c);
    size_t hashed = tail.len - cur_left(&c);
    if (cur_u64(&c) != hash64(tail.data, hashed, 0) || c.bad || tail.len < BLOCK) {
        return dir_ledger_refuse(l, TAIL, "has a damaged header", err);
    }
    if (generation > l->generation) {
        return dir_ledger_refuse(l, SEEN, "is missing or older than its tail", err);
    }
    *ret_void = generation < l->generation;
    return *ret_void ? LEVEE_OK : read_frames(l, tail, err);
}

/* ---- old entries ---- */

static void put_old(struct buf *b, const struct dir_entry *e, struct levee_slice path,
                    uint64_t *base)
{
    buf_varint(b, e->base - *base);
    *base = e->base;
    buf_u8(b, e->flags);
    buf_varint(b, e->size);
    buf_varint(b, e->inode);
    buf_u64(b, e->birth);
    buf_u64(b, (uint64_t)e->mtime_ns);
    buf_varint(b, e->last - e->base);
    buf_u64(b, e->hash);
    buf_slice(b, path);
}

static struct levee_slice get_old(struct cursor *c, struct dir_entry *e, uint64_t *base)
{
    *e = (struct dir_entry){.base = *base + cur_varint(c), .flags = cur_u8(c)};
    *base = e->base;
    e->size = cur_varint(c);
    e->inode = cur_varint(c);
    e->birth = cur_u64(c);
    e->mtime_ns = (int64_t)cur_u64(c);
    e->last = e->base + cur_varint(c);
    e->hash = cur_u64(c);
    return cur_slice(c);
}

/* The header of the file of old entries; the cursor stands before the first. */
static int open_old(const struct dir_ledger *l, struct levee_slice bytes, struct cursor *ret_at,
                    uint64_t *ret_generation, uint64_t *ret_next, uint64_t *ret_count,
                    struct levee_error *err)
{
    struct cursor c = cursor_of(bytes);
    int code = check_identity(l, &c, SEEN, SEEN_MAGIC, ret_generation, err);

    if (code) {
        return code;
    }
    *ret_next = cur_u64(&c);
    *ret_count = cur_varint(&c);
    if (c.bad || bytes.len < 8 ||
        get_le64(bytes.data + bytes.len - 8) != hash64(bytes.data, bytes.len - 8, 0)) {
        return dir_ledger_refuse(l, SEEN, "is damaged: its hash is wrong", err);
    }
    *ret_at = c;
    return LEVEE_OK;
}

int dir_ledger_read_old(struct dir_ledger *l, struct levee_slice bytes, struct levee_error *err)
{
    struct cursor c;
    uint64_t count = 0, base = 0;
    int code = open_old(l, bytes, &c, &l->generation, &l->next_base, &count, err);

    for (uint64_t i = 0; i < count && code == LEVEE_OK; i++) {
        struct dir_entry e;
        struct levee_slice path = get_old(&c, &e, &base);
        if (c.bad || !path.data) {
            return dir_ledger_refuse(l, SEEN, "does not parse", err);
        }
        e.path_hash = dir_ledger_path_hash(path);
        code = dir_ledger_reserve(l) ? LEVEE_OK : err_nomem(err, sizeof e);
        if (code == LEVEE_OK) {
            dir_ledger_add_entry(l, &e);
        }
    }
    l->old_count = l->count;
    l->old_bytes = bytes.len;
    return code;
}

int dir_ledger_read_if_there(const struct dir_ledger *l, const char *name, struct buf *ret,
                             bool *ret_there, struct levee_error *err)
{
    char path[IO_PATH_MAX];
    struct io_stat st = {0};
    int code = io_path(path, l->path, name, err);

    if (code == LEVEE_OK) {
        code = l->io->ops->stat(l->io, path, &st, err);
    }
    *ret_there = code == LEVEE_OK && st.kind != IO_NONE;
    return code || !*ret_there ? code : io_read_file(l->io, path, SEEN_MAX, ret, err);
}

int dir_ledger_name(const struct dir_ledger *l, size_t index, char out[IO_PATH_MAX],
                    struct levee_error *err)
{
    struct buf old = {0};
    struct cursor c = {0};
    bool there;
    uint64_t generation, next, count, base = 0;
    struct dir_entry e;
    struct levee_slice path = {NULL, 0};
    int code = LEVEE_OK;

    if (l->entries[index].path) {
        path = slice_str(l->entries[index].path);
    } else if ((code = dir_ledger_read_if_there(l, SEEN, &old, &there, err)) == LEVEE_OK &&
               (code = open_old(l, buf_view(&old), &c, &generation, &next, &count, err)) ==
                   LEVEE_OK) {
        for (size_t i = 0; i <= index && !c.bad; i++) {
            path = get_old(&c, &e, &base);
        }
    }
    if (code == LEVEE_OK && (!path.data || path.len >= IO_PATH_MAX)) {
        code = dir_ledger_refuse(l, SEEN, "does not parse", err);
    }
    if (code == LEVEE_OK && path.data) {
        memcpy(out, path.data, path.len);
        out[path.len] = 0;
    }
    buf_release(&old);
    return code;
}

/* ---- folding ---- */

bool dir_ledger_wants_fold(const struct dir_ledger *l)
{
    uint64_t size = l->tail_end - BLOCK;

    return size > FOLD_AT_LEAST && size > l->old_bytes;
}

/* Every entry that counts, with its name from the old file or from memory. */
static int pack(struct dir_ledger *l, struct levee_slice old, struct buf *ret,
                struct levee_error *err)
{
    struct cursor c = {0};
    uint64_t generation, next, count = 0, kept = 0, from = 0, base = 0;
    int code = old.len ? open_old(l, old, &c, &generation, &next, &count, err) : LEVEE_OK;

    if (code) {
        return code;
    }
    for (size_t i = 0; i < l->count; i++) {
        kept += !(l->entries[i].flags & DIR_VOID);
    }
    put_identity(l, ret, SEEN_MAGIC, l->generation + 1);
    buf_u64(ret, l->next_base);
    buf_varint(ret, kept);
    for (size_t i = 0; i < l->count; i++) {
        const struct dir_entry *e = &l->entries[i];
        struct dir_entry was;
        struct levee_slice path = {NULL, 0};
        if (i < l->old_count) {
            path = get_old(&c, &was, &from);
        }
        if (e->path) {
            path = slice_str(e->path);
        }
        ASSERT(path.data != NULL);
        if (!(e->flags & DIR_VOID)) {
            put_old(ret, e, path, &base);
        }
    }
    buf_u64(ret, hash64(ret->data, ret->len, 0));
    return ret->failed ? err_nomem(err, ret->len) : LEVEE_OK;
}

int dir_ledger_fold(struct dir_ledger *l, uint64_t position, struct levee_error *err)
{
    struct buf old = {0}, fresh = {0};
    bool there;
    struct dir_ledger again;
    char state[IO_PATH_MAX];
    int code = dir_ledger_commit(l, err);

    if (code == LEVEE_OK) {
        code = dir_ledger_read_if_there(l, SEEN, &old, &there, err);
    }
    if (code == LEVEE_OK) {
        code = pack(l, buf_view(&old), &fresh, err);
    }
    if (code == LEVEE_OK) {
        code = io_publish(l->io, l->path, SEEN, buf_view(&fresh), err);
        crash_at(l->io, CP_LEDGER_AFTER_SEEN);
    }
    if (code == LEVEE_OK) {
        code = dir_ledger_publish_tail(l, l->generation + 1, err);
    }
    buf_release(&old);
    buf_release(&fresh);
    if (code) {
        return code;
    }
    /* Read back whole: indices are new, and what was written is what will be read. */
    size_t n = strlen(l->path) - strlen(l->uid) - strlen("/sources/");
    memcpy(state, l->path, n);
    state[n] = 0;
    code = dir_ledger_open(&again, l->io, state, l->uid, l->context, position, err);
    if (code == LEVEE_OK) {
        again.frames = l->frames;
        dir_ledger_close(l);
        *l = again;
    }
    return code;
}
