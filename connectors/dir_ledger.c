/*
 * Two files in <state>/sources/<uid>/:
 *
 *   files.tail   recent changes: a header block, then frames of whole 4 KiB blocks, each written
 *                and synced before the next begins, so a later frame witnesses all before it
 *   files.seen   older entries, packed, written once, published by rename, hashed as a whole
 *
 * A frame that does not verify is a torn write if nothing that verifies lies behind it: no record
 * of the files it named can be in the log, because appending waits for the sync, and the position
 * proves that (a position beyond the ledger is refused). Otherwise it is damage and refused. Frames
 * begin on blocks of their own, since a write that is cut short may spoil what shares its block.
 *
 * When the tail has grown as large as the old entries (at least 1 MiB) both are folded into a new
 * files.seen of the next generation; its rename is the one point. A tail of an older generation is
 * thereby void. So an entry costs about 60 bytes and its name on disk, each is rewritten a
 * logarithmic number of times, and nothing of it is in the log or in checkpoints.
 *
 * In memory an old entry is 72 bytes and its two slots; names stay on disk.
 */
#include "connectors/dir_ledger.h"

#include <inttypes.h>
#include <stdio.h>

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

enum { OP_BEGIN = 1, OP_END, OP_VOID, OP_KNOW };

static int refuse(const struct dir_ledger *l, const char *name, const char *why,
                  struct levee_error *err)
{
    err_set(err, LEVEE_ELEDGER, "source %s: its ledger of files %s", l->uid, why);
    err_where(err, "%s/%s", l->path, name);
    return LEVEE_ELEDGER;
}

/* ---- entries and the two ways to find them ---- */

static uint64_t inode_hash(uint64_t inode, uint64_t birth, int64_t mtime_ns)
{
    uint8_t b[16];

    put_le64(b, inode);
    put_le64(b + 8, birth ? birth : (uint64_t)mtime_ns);
    return hash_key(b, sizeof b);
}

static uint64_t inode_hash_of(const struct dir_entry *e)
{
    return inode_hash(e->inode, e->birth, e->mtime_ns);
}

static size_t find(const struct map *m, uint64_t hash)
{
    uint32_t pos = (uint32_t)hash & m->mask;
    const struct map_slot *s = map_probe(m, hash, &pos);

    return s ? s->index : DIR_NONE;
}

/* The newest entry with this hash is the one that is found. */
static void point_at(struct map *m, uint64_t hash, size_t index)
{
    uint32_t pos = (uint32_t)hash & m->mask;
    struct map_slot *s = map_probe(m, hash, &pos);

    if (s) {
        s->index = (uint32_t)index;
    } else {
        bool ok = map_insert(m, hash, (uint32_t)index);
        ASSERT(ok); /* room was reserved */
    }
}

static void forget(struct map *m, uint64_t hash, size_t index)
{
    uint32_t pos = (uint32_t)hash & m->mask;
    struct map_slot *s = map_probe(m, hash, &pos);

    if (s && s->index == index) {
        map_remove(m, s);
    }
}

/* Room for one more, in the array and in both maps. */
static bool reserve(struct dir_ledger *l)
{
    return l->count < UINT32_MAX - 2 &&
           mem_grow((void **)&l->entries, &l->cap, l->count + 1, sizeof *l->entries) &&
           map_reserve(&l->by_path, (uint32_t)l->count + 2) &&
           map_reserve(&l->by_inode, (uint32_t)l->count + 2);
}

static void add_entry(struct dir_ledger *l, const struct dir_entry *e)
{
    l->entries[l->count] = *e;
    if (!(e->flags & DIR_VOID)) {
        point_at(&l->by_path, e->path_hash, l->count);
        point_at(&l->by_inode, inode_hash_of(e), l->count);
    }
    l->count++;
}

static uint64_t path_hash(struct levee_slice path)
{
    return hash_key(path.data, path.len);
}

static void void_entry(struct dir_ledger *l, size_t index)
{
    struct dir_entry *e = &l->entries[index];

    e->flags |= DIR_VOID;
    forget(&l->by_path, e->path_hash, index);
    forget(&l->by_inode, inode_hash_of(e), index);
}

static char *copy_path(struct levee_slice s)
{
    char *path = mem_alloc(s.len + 1);

    if (path) {
        memcpy(path, s.data, s.len);
        path[s.len] = 0;
    }
    return path;
}

/* Its name and numbers become others. */
static int move_entry(struct dir_ledger *l, size_t index, struct levee_slice path,
                      const struct io_stat *st, bool changed, struct levee_error *err)
{
    struct dir_entry *e = &l->entries[index];
    char *copy = copy_path(path);

    if (!copy || !map_reserve(&l->by_path, (uint32_t)l->count + 2) ||
        !map_reserve(&l->by_inode, (uint32_t)l->count + 2)) {
        mem_free(copy);
        return err_nomem(err, path.len);
    }
    forget(&l->by_path, e->path_hash, index);
    forget(&l->by_inode, inode_hash_of(e), index);
    mem_free(e->path);
    e->path = copy;
    e->path_hash = path_hash(path);
    e->inode = st->inode;
    e->birth = st->birth;
    e->mtime_ns = st->mtime_ns;
    e->flags = (uint8_t)(e->flags | (changed ? DIR_CHANGED : 0));
    point_at(&l->by_path, e->path_hash, index);
    point_at(&l->by_inode, inode_hash_of(e), index);
    return LEVEE_OK;
}

size_t dir_ledger_by_path(const struct dir_ledger *l, const char *path)
{
    return find(&l->by_path, path_hash(slice_str(path)));
}

size_t dir_ledger_by_inode(const struct dir_ledger *l, const struct io_stat *st)
{
    return find(&l->by_inode, inode_hash(st->inode, st->birth, st->mtime_ns));
}

/* ---- changes: applied alike when they are made and when they are read back ---- */

static void put_stat(struct buf *b, const struct io_stat *st)
{
    buf_varint(b, st->inode);
    buf_u64(b, st->birth);
    buf_u64(b, (uint64_t)st->mtime_ns);
}

static struct io_stat get_stat(struct cursor *c)
{
    struct io_stat st = {.inode = cur_varint(c)};

    st.birth = cur_u64(c);
    st.mtime_ns = (int64_t)cur_u64(c);
    return st;
}

static int apply_begin(struct dir_ledger *l, struct levee_slice path, const struct io_stat *st,
                       uint8_t flags, struct levee_error *err)
{
    struct dir_entry e = {.path_hash = path_hash(path),
                          .inode = st->inode,
                          .birth = st->birth,
                          .mtime_ns = st->mtime_ns,
                          .size = st->size,
                          .base = l->next_base,
                          .last = l->next_base,
                          .path = copy_path(path),
                          .flags = flags};

    if (!e.path || !reserve(l)) {
        mem_free(e.path);
        return err_nomem(err, path.len);
    }
    add_entry(l, &e);
    l->next_base += flags & DIR_OPEN ? 0 : st->size + 1;
    return LEVEE_OK;
}

static void apply_end(struct dir_ledger *l, size_t index, uint64_t last, uint64_t length,
                      uint64_t hash, uint8_t flags)
{
    struct dir_entry *e = &l->entries[index];

    e->last = last;
    e->hash = hash;
    if (e->flags & DIR_OPEN) {
        l->next_base = e->base + length + 1;
    }
    e->flags = (uint8_t)((e->flags & ~DIR_OPEN) | DIR_ENDED | flags);
}

/* One change out of a frame; false: it makes no sense. */
static bool apply(struct dir_ledger *l, struct cursor *c, int *ret_code, struct levee_error *err)
{
    uint8_t op = cur_u8(c);

    *ret_code = LEVEE_OK;
    if (op == OP_BEGIN) {
        uint8_t flags = cur_u8(c);
        uint64_t base = cur_varint(c);
        struct io_stat st = {.size = cur_varint(c)}, id = get_stat(c);
        struct levee_slice path = cur_slice(c);
        id.size = st.size;
        if (c->bad || base != l->next_base || !path.data) {
            return false;
        }
        *ret_code = apply_begin(l, path, &id, flags, err);
        return true;
    }
    uint64_t index = cur_varint(c);
    if (c->bad || index >= l->count) {
        return false;
    }
    if (op == OP_VOID) {
        void_entry(l, index);
    } else if (op == OP_END) {
        uint8_t flags = cur_u8(c);
        uint64_t records = cur_varint(c), length = cur_varint(c), hash = cur_u64(c);
        if (c->bad || records > length + 1) {
            return false;
        }
        apply_end(l, index, l->entries[index].base + records, length, hash, flags);
    } else if (op == OP_KNOW) {
        uint8_t changed = cur_u8(c);
        struct io_stat st = get_stat(c);
        struct levee_slice path = cur_slice(c);
        if (c->bad || !path.data) {
            return false;
        }
        *ret_code = move_entry(l, index, path, &st, changed != 0, err);
    }
    return op >= OP_BEGIN && op <= OP_KNOW;
}

int dir_ledger_begin(struct dir_ledger *l, const char *path, const struct io_stat *st, bool open,
                     size_t *ret_index, struct levee_error *err)
{
    uint8_t flags = open ? DIR_OPEN : 0;
    uint64_t base = l->next_base;

    ASSERT(l->count == 0 || !(l->entries[l->count - 1].flags & DIR_OPEN) ||
           (l->entries[l->count - 1].flags & DIR_VOID));
    int code = apply_begin(l, slice_str(path), st, flags, err);
    if (code) {
        return code;
    }
    buf_u8(&l->frame, OP_BEGIN);
    buf_u8(&l->frame, flags);
    buf_varint(&l->frame, base);
    buf_varint(&l->frame, st->size);
    put_stat(&l->frame, st);
    buf_slice(&l->frame, slice_str(path));
    *ret_index = l->count - 1;
    return LEVEE_OK;
}

void dir_ledger_end(struct dir_ledger *l, size_t index, uint64_t last, uint64_t length,
                    uint64_t hash, bool was_cut)
{
    uint8_t flags = was_cut ? DIR_CUT : 0;

    buf_u8(&l->frame, OP_END);
    buf_varint(&l->frame, index);
    buf_u8(&l->frame, flags);
    buf_varint(&l->frame, last - l->entries[index].base);
    buf_varint(&l->frame, length);
    buf_u64(&l->frame, hash);
    apply_end(l, index, last, length, hash, flags);
}

void dir_ledger_void(struct dir_ledger *l, size_t index)
{
    buf_u8(&l->frame, OP_VOID);
    buf_varint(&l->frame, index);
    void_entry(l, index);
}

int dir_ledger_know(struct dir_ledger *l, size_t index, const char *path, const struct io_stat *st,
                    bool changed, struct levee_error *err)
{
    int code = move_entry(l, index, slice_str(path), st, changed, err);

    if (code == LEVEE_OK) {
        buf_u8(&l->frame, OP_KNOW);
        buf_varint(&l->frame, index);
        buf_u8(&l->frame, changed);
        put_stat(&l->frame, st);
        buf_slice(&l->frame, slice_str(path));
    }
    return code;
}

/* ---- the tail ---- */

bool dir_ledger_dirty(const struct dir_ledger *l)
{
    return l->frame.len > FRAME_HEADER;
}

static void begin_frame(struct dir_ledger *l)
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
        begin_frame(l);
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
            if (!apply(l, &c, &code, err)) {
                return refuse(l, TAIL, "does not parse", err);
            }
            if (code) {
                return code;
            }
        }
        at += (FRAME_HEADER + payload.len + BLOCK - 1) / BLOCK * BLOCK;
    }
    for (uint64_t later = at + BLOCK; later < tail.len; later += BLOCK) {
        if (frame_at(l, tail, later, &payload)) {
            (void)refuse(l, TAIL, "is damaged", err);
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
        return refuse(l, name, "does not begin as ours do", err);
    }
    if (version > VERSION) {
        return refuse(l, name, "was written by a newer levee", err);
    }
    if (!slice_eq(context, slice_str(l->context)) || !slice_eq(uid, slice_str(l->uid))) {
        return refuse(l, name, "belongs to another context or source", err);
    }
    return LEVEE_OK;
}

/* An empty tail of that generation, by rename. */
static int publish_tail(struct dir_ledger *l, uint64_t generation, struct levee_error *err)
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

static int read_tail(struct dir_ledger *l, struct levee_slice tail, bool *ret_void,
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
        return refuse(l, TAIL, "has a damaged header", err);
    }
    if (generation > l->generation) {
        return refuse(l, SEEN, "is missing or older than its tail", err);
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
        return refuse(l, SEEN, "is damaged: its hash is wrong", err);
    }
    *ret_at = c;
    return LEVEE_OK;
}

static int read_old(struct dir_ledger *l, struct levee_slice bytes, struct levee_error *err)
{
    struct cursor c;
    uint64_t count, base = 0;
    int code = open_old(l, bytes, &c, &l->generation, &l->next_base, &count, err);

    for (uint64_t i = 0; i < count && code == LEVEE_OK; i++) {
        struct dir_entry e;
        struct levee_slice path = get_old(&c, &e, &base);
        if (c.bad || !path.data) {
            return refuse(l, SEEN, "does not parse", err);
        }
        e.path_hash = path_hash(path);
        code = reserve(l) ? LEVEE_OK : err_nomem(err, sizeof e);
        if (code == LEVEE_OK) {
            add_entry(l, &e);
        }
    }
    l->old_count = l->count;
    l->old_bytes = bytes.len;
    return code;
}

static int read_if_there(const struct dir_ledger *l, const char *name, struct buf *ret,
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
    struct cursor c;
    bool there;
    uint64_t generation, next, count, base = 0;
    struct dir_entry e;
    struct levee_slice path = {NULL, 0};
    int code = LEVEE_OK;

    if (l->entries[index].path) {
        path = slice_str(l->entries[index].path);
    } else if ((code = read_if_there(l, SEEN, &old, &there, err)) == LEVEE_OK &&
               (code = open_old(l, buf_view(&old), &c, &generation, &next, &count, err)) ==
                   LEVEE_OK) {
        for (size_t i = 0; i <= index && !c.bad; i++) {
            path = get_old(&c, &e, &base);
        }
    }
    if (code == LEVEE_OK && (!path.data || path.len >= IO_PATH_MAX)) {
        code = refuse(l, SEEN, "does not parse", err);
    }
    if (code == LEVEE_OK) {
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
        code = read_if_there(l, SEEN, &old, &there, err);
    }
    if (code == LEVEE_OK) {
        code = pack(l, buf_view(&old), &fresh, err);
    }
    if (code == LEVEE_OK) {
        code = io_publish(l->io, l->path, SEEN, buf_view(&fresh), err);
        crash_at(l->io, CP_LEDGER_AFTER_SEEN);
    }
    if (code == LEVEE_OK) {
        code = publish_tail(l, l->generation + 1, err);
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

/* ---- life ---- */

static int make_folder(struct dir_ledger *l, const char *state, struct levee_error *err)
{
    char sources[IO_PATH_MAX];
    int code;

    if ((code = io_path(sources, state, "sources", err)) ||
        (code = l->io->ops->mkdir(l->io, sources, err)) ||
        (code = l->io->ops->mkdir(l->io, l->path, err)) ||
        (code = l->io->ops->sync_dir(l->io, l->path, err)) ||
        (code = l->io->ops->sync_dir(l->io, sources, err))) {
        return code;
    }
    return l->io->ops->sync_dir(l->io, state, err);
}

/* The position must lie where the ledger reaches, or one of them has lost something. */
static int check_reach(const struct dir_ledger *l, uint64_t position, struct levee_error *err)
{
    const struct dir_entry *e = l->count ? &l->entries[l->count - 1] : NULL;

    if (position <= l->next_base || (e && (e->flags & DIR_OPEN) && !(e->flags & DIR_VOID))) {
        return LEVEE_OK;
    }
    (void)refuse(l, TAIL, "lacks files whose records the log holds", err);
    err_expected(err, "files up to sequence %" PRIu64, position);
    err_found(err, "up to %" PRIu64, l->next_base);
    return LEVEE_ELEDGER;
}

static int load(struct dir_ledger *l, const char *state, struct levee_error *err)
{
    struct buf old = {0}, tail = {0};
    bool has_old = false, has_tail = false, stale = true;
    char path[IO_PATH_MAX];
    int code;

    if ((code = make_folder(l, state, err)) || (code = io_path(path, l->path, TAIL, err)) ||
        (code = read_if_there(l, SEEN, &old, &has_old, err)) ||
        (code = has_old ? read_old(l, buf_view(&old), err) : LEVEE_OK) ||
        (code = read_if_there(l, TAIL, &tail, &has_tail, err))) {
        goto out;
    }
    if (has_tail) {
        code = read_tail(l, buf_view(&tail), &stale, err);
    } else if (has_old) {
        code = refuse(l, TAIL, "lacks its tail", err);
    }
    if (code == LEVEE_OK && stale) { /* new, or folded: what it held is in the old entries */
        buf_clear(&tail);
        if ((code = publish_tail(l, l->generation, err)) == LEVEE_OK &&
            (code = read_if_there(l, TAIL, &tail, &has_tail, err)) == LEVEE_OK) {
            code = read_tail(l, buf_view(&tail), &stale, err);
        }
    }
    if (code == LEVEE_OK) {
        code = l->io->ops->open(l->io, path, IO_WRITE, &l->tail, err);
    }
    if (code == LEVEE_OK) { /* what a process death left in the page cache is acted upon now */
        code = l->io->ops->sync(l->tail, err);
    }
out:
    buf_release(&old);
    buf_release(&tail);
    return code;
}

int dir_ledger_open(struct dir_ledger *l, struct io *io, const char *state, const char *uid,
                    const char *context, uint64_t position, struct levee_error *err)
{
    char name[80];

    *l = (struct dir_ledger){.io = io};
    (void)snprintf(l->uid, sizeof l->uid, "%s", uid);
    (void)snprintf(l->context, sizeof l->context, "%s", context);
    (void)snprintf(name, sizeof name, "sources/%s", uid);
    int code = io_path(l->path, state, name, err);
    if (code == LEVEE_OK) {
        code = load(l, state, err);
    }
    if (code == LEVEE_OK) {
        code = check_reach(l, position, err);
    }
    begin_frame(l);
    if (code) {
        dir_ledger_close(l);
    }
    return code;
}

void dir_ledger_close(struct dir_ledger *l)
{
    if (l->tail) {
        l->io->ops->close(l->tail);
    }
    for (size_t i = 0; i < l->count; i++) {
        mem_free(l->entries[i].path);
    }
    mem_free(l->entries);
    map_release(&l->by_path);
    map_release(&l->by_inode);
    buf_release(&l->frame);
    *l = (struct dir_ledger){0};
}
