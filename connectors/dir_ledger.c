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
#include "connectors/dir_ledger_impl.h"

#include <inttypes.h>
#include <stdio.h>

enum { OP_BEGIN = 1, OP_END, OP_VOID, OP_KNOW };

int dir_ledger_refuse(const struct dir_ledger *l, const char *name, const char *why,
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
bool dir_ledger_reserve(struct dir_ledger *l)
{
    return l->count < UINT32_MAX - 2 &&
           mem_grow((void **)&l->entries, &l->cap, l->count + 1, sizeof *l->entries) &&
           map_reserve(&l->by_path, (uint32_t)l->count + 2) &&
           map_reserve(&l->by_inode, (uint32_t)l->count + 2);
}

void dir_ledger_add_entry(struct dir_ledger *l, const struct dir_entry *e)
{
    l->entries[l->count] = *e;
    if (!(e->flags & DIR_VOID)) {
        point_at(&l->by_path, e->path_hash, l->count);
        point_at(&l->by_inode, inode_hash_of(e), l->count);
    }
    l->count++;
}

uint64_t dir_ledger_path_hash(struct levee_slice path)
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
    e->path_hash = dir_ledger_path_hash(path);
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
    return find(&l->by_path, dir_ledger_path_hash(slice_str(path)));
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
    struct dir_entry e = {.path_hash = dir_ledger_path_hash(path),
                          .inode = st->inode,
                          .birth = st->birth,
                          .mtime_ns = st->mtime_ns,
                          .size = st->size,
                          .base = l->next_base,
                          .last = l->next_base,
                          .path = copy_path(path),
                          .flags = flags};

    if (!e.path || !dir_ledger_reserve(l)) {
        mem_free(e.path);
        return err_nomem(err, path.len);
    }
    dir_ledger_add_entry(l, &e);
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
bool dir_ledger_apply(struct dir_ledger *l, struct cursor *c, int *ret_code,
                      struct levee_error *err)
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
    (void)dir_ledger_refuse(l, TAIL, "lacks files whose records the log holds", err);
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
        (code = dir_ledger_read_if_there(l, SEEN, &old, &has_old, err)) ||
        (code = has_old ? dir_ledger_read_old(l, buf_view(&old), err) : LEVEE_OK) ||
        (code = dir_ledger_read_if_there(l, TAIL, &tail, &has_tail, err))) {
        goto out;
    }
    if (has_tail) {
        code = dir_ledger_read_tail(l, buf_view(&tail), &stale, err);
    } else if (has_old) {
        code = dir_ledger_refuse(l, TAIL, "lacks its tail", err);
    }
    if (code == LEVEE_OK && stale) { /* new, or folded: what it held is in the old entries */
        buf_clear(&tail);
        if ((code = dir_ledger_publish_tail(l, l->generation, err)) == LEVEE_OK &&
            (code = dir_ledger_read_if_there(l, TAIL, &tail, &has_tail, err)) == LEVEE_OK) {
            code = dir_ledger_read_tail(l, buf_view(&tail), &stale, err);
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
    dir_ledger_begin_frame(l);
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
