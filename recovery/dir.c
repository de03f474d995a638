/*
 * The state directory: who holds it, whose it is, whether it may be used.
 *
 *   LOCK         flock with the holder's pid
 *   FORMAT       one checksummed page: the directory is ours from its rename on, and not before
 *   wal/  checkpoint/  quarantine/ (inside each, on demand)
 *
 * Without FORMAT a directory is new only if it holds nothing but our lock, our empty subdirectories
 * and temporary names: anything else may be somebody's data, or ours with a file lost, and is
 * refused.
 */
#include "recovery/recovery.h"

#include <stdio.h>

#define FORMAT_NAME  "FORMAT"
#define LOCK_NAME    "LOCK"
#define FORMAT_MAGIC "LEVEEDIR"
#define FORMAT_MAX   4096u

/* ---- FORMAT ---- */

static void format_encode(const struct rec_dir *dir, const struct rec_dir_options *o,
                          struct buf *ret)
{
    buf_put(ret, FORMAT_MAGIC, 8);
    buf_u32(ret, REC_FORMAT_VERSION);
    buf_u32(ret, 0); /* incompatible features */
    buf_u32(ret, 0); /* read-only compatible features */
    buf_put(ret, dir->context.b, sizeof dir->context.b);
    buf_u64(ret, (uint64_t)dir->io->ops->wall_ms(dir->io));
    buf_varint(ret, o->frozen_count);
    for (size_t i = 0; i < o->frozen_count; i++) {
        buf_slice(ret, slice_str(o->frozen[i].name));
        buf_u64(ret, o->frozen[i].value);
    }
    buf_u64(ret, hash64(ret->data, ret->len, 0));
}

static int damaged(const char *path, const char *why, struct levee_error *err)
{
    err_set(err, LEVEE_EDIR_FOREIGN, "FORMAT is damaged: %s", why);
    err_where(err, "%s/" FORMAT_NAME, path);
    return LEVEE_EDIR_FOREIGN;
}

static int check_frozen(const struct rec_dir_options *o, struct levee_slice name, uint64_t stored,
                        struct levee_error *err)
{
    for (size_t i = 0; i < o->frozen_count; i++) {
        if (slice_eq(slice_str(o->frozen[i].name), name) && o->frozen[i].value != stored) {
            err_set(err, LEVEE_EDIR_OPTION, "option %s is frozen", o->frozen[i].name);
            err_where(err, "%s", o->path);
            err_expected(err, "%llu, as stored", (unsigned long long)stored);
            err_found(err, "%llu", (unsigned long long)o->frozen[i].value);
            return LEVEE_EDIR_OPTION;
        }
    }
    return LEVEE_OK;
}

static int format_decode(struct rec_dir *dir, const struct rec_dir_options *o,
                         struct levee_slice bytes, struct levee_error *err)
{
    struct cursor c = cursor_of(bytes);
    struct levee_slice magic = cur_bytes(&c, 8);
    uint32_t version = cur_u32(&c), incompatible = cur_u32(&c);

    if (c.bad || memcmp(magic.data, FORMAT_MAGIC, 8) != 0) {
        return damaged(dir->path, "it does not begin as ours do", err);
    }
    if (version > REC_FORMAT_VERSION || incompatible) {
        err_set(err, LEVEE_EDIR_NEWER, "the directory was written by a newer levee");
        err_where(err, "%s/" FORMAT_NAME, dir->path);
        err_expected(err, "format at most %u, no incompatible features", REC_FORMAT_VERSION);
        err_found(err, "format %u, features %08x", version, incompatible);
        return LEVEE_EDIR_NEWER;
    }
    if (bytes.len < 8 ||
        get_le64(bytes.data + bytes.len - 8) != hash64(bytes.data, bytes.len - 8, 0)) {
        return damaged(dir->path, "its checksum is wrong", err);
    }
    (void)cur_u32(&c); /* read-only compatible features: we would write */
    struct levee_slice id = cur_bytes(&c, sizeof dir->context.b);
    (void)cur_u64(&c); /* created at, for people */
    uint64_t n = cur_varint(&c);
    if (c.bad) {
        return damaged(dir->path, "it is too short", err);
    }
    memcpy(dir->context.b, id.data, sizeof dir->context.b);
    for (uint64_t i = 0; i < n && !c.bad; i++) {
        struct levee_slice name = cur_slice(&c);
        uint64_t value = cur_u64(&c);
        int code = c.bad ? LEVEE_OK : check_frozen(o, name, value, err);
        if (code) {
            return code;
        }
    }
    return c.bad ? damaged(dir->path, "it is too short", err) : LEVEE_OK;
}

/* ---- is it ours, is it new ---- */

static int only_ours(struct rec_dir *dir, struct levee_error *err)
{
    struct io_list list = {0}, inner = {0};
    int code = dir->io->ops->list(dir->io, dir->path, &list, err);

    for (size_t i = 0; i < list.count && code == LEVEE_OK; i++) {
        const char *name = list.items[i].name;
        bool room = strcmp(name, "wal") == 0 || strcmp(name, "checkpoint") == 0;
        const char *found = name;
        bool fine = strcmp(name, LOCK_NAME) == 0 || io_is_temp(name);
        if (room) {
            code = dir->io->ops->list(dir->io, name[0] == 'w' ? dir->wal : dir->ckpt, &inner, err);
            fine = code == LEVEE_OK && inner.count == 0;
            found = inner.count ? inner.items[0].name : name;
        }
        if (code == LEVEE_OK && !fine) {
            err_set(err, LEVEE_EDIR_FOREIGN,
                    "the directory is not empty and not ours: it has no " FORMAT_NAME);
            err_where(err, "%s", dir->path);
            err_expected(err, "an empty directory, or one made by levee");
            err_found(err, "%s", found);
            code = LEVEE_EDIR_FOREIGN;
        }
        io_list_free(&inner);
    }
    io_list_free(&list);
    return code;
}

static int check_file_system(struct rec_dir *dir, struct levee_error *err)
{
    static const char *const remote[] = {"nfs", "cifs", "smb",  "smb2", "smb3",
                                         "9p",  "fuse", "ceph", "afs"};
    const char *type = NULL;

    if (!dir->io->ops->fs_type ||
        dir->io->ops->fs_type(dir->io, dir->path, &type, NULL) != LEVEE_OK || !type) {
        return LEVEE_OK;
    }
    for (size_t i = 0; i < ARRAY_LEN(remote); i++) {
        if (strcmp(type, remote[i]) == 0) {
            err_set(err, LEVEE_EDIR_FS,
                    "state on a remote file system can be lost or shared unseen");
            err_where(err, "%s", dir->path);
            err_expected(err, "a local file system");
            err_found(err, "%s", type);
            return LEVEE_EDIR_FS;
        }
    }
    return LEVEE_OK;
}

/* Makes the directory if it is not there; existing_only refuses instead. */
static int find_or_make(struct io *io, const struct rec_dir_options *o, struct levee_error *err)
{
    struct io_stat st = {0};
    int code = io->ops->stat(io, o->path, &st, err);

    if (code) {
        return code;
    }
    if (st.kind == IO_NONE && o->existing_only) {
        err_set(err, LEVEE_EDIR_MISSING, "there is no state directory, and none is to be made");
        err_where(err, "%s", o->path);
        return LEVEE_EDIR_MISSING;
    }
    if (st.kind != IO_NONE && st.kind != IO_DIR) {
        err_set(err, LEVEE_EDIR_FOREIGN, "the state directory is not a directory");
        err_where(err, "%s", o->path);
        return LEVEE_EDIR_FOREIGN;
    }
    return st.kind == IO_NONE ? io->ops->mkdir(io, o->path, err) : LEVEE_OK;
}

static int read_format(struct rec_dir *dir, const struct rec_dir_options *o,
                       struct levee_error *err)
{
    char path[IO_PATH_MAX];
    struct io_stat st = {0};
    struct buf bytes = {0};
    int code = io_path(path, dir->path, FORMAT_NAME, err);

    if (code == LEVEE_OK) {
        code = dir->io->ops->stat(dir->io, path, &st, err);
    }
    if (code) {
        return code;
    }
    if (st.kind == IO_NONE) {
        dir->fresh = true;
        code = only_ours(dir, err);
        if (code == LEVEE_OK && o->existing_only) {
            err_set(err, LEVEE_EDIR_MISSING,
                    "the directory is empty, and none is to be made: a lost mount?");
            err_where(err, "%s", o->path);
            return LEVEE_EDIR_MISSING;
        }
        for (size_t i = 0; i < sizeof dir->context.b && code == LEVEE_OK; i += 8) {
            put_le64(dir->context.b + i, dir->io->ops->random(dir->io));
        }
        return code;
    }
    code = io_read_file(dir->io, path, FORMAT_MAX, &bytes, err);
    if (code == LEVEE_OK) {
        code = format_decode(dir, o, buf_view(&bytes), err);
    }
    buf_release(&bytes);
    return code;
}

int rec_dir_open(struct io *io, const struct rec_dir_options *o, struct rec_dir *ret,
                 struct levee_error *err)
{
    struct rec_dir dir = {.io = io};
    char lock[IO_PATH_MAX];
    int code;

    if ((code = io_path(dir.wal, o->path, "wal", err)) ||
        (code = io_path(dir.ckpt, o->path, "checkpoint", err)) ||
        (code = io_path(lock, o->path, LOCK_NAME, err)) || (code = find_or_make(io, o, err))) {
        return code;
    }
    (void)snprintf(dir.path, sizeof dir.path, "%s",
                   o->path); /* fits: a longer one was joined above */
    code = io->ops->lock(io, lock, &dir.lock, err);
    if (code) {
        return code;
    }
    code = check_file_system(&dir, err);
    if (code == LEVEE_OK) {
        code = read_format(&dir, o, err);
    }
    if (code) {
        rec_dir_close(&dir);
        return code;
    }
    *ret = dir;
    return LEVEE_OK;
}

static const char *parent_of(const char *path, char out[IO_PATH_MAX])
{
    const char *slash = strrchr(path, '/');

    if (!slash) {
        return ".";
    }
    size_t n = slash == path ? 1 : (size_t)(slash - path);
    memcpy(out, path, n);
    out[n] = 0;
    return out;
}

int rec_dir_create(struct rec_dir *dir, const struct rec_dir_options *o, struct levee_error *err)
{
    struct io *io = dir->io;
    char parent[IO_PATH_MAX];
    struct buf bytes = {0};
    int code;

    ASSERT(dir->fresh);
    if ((code = io->ops->mkdir(io, dir->wal, err)) || (code = io->ops->mkdir(io, dir->ckpt, err))) {
        return code;
    }
    crash_at(io, CP_DIR_AFTER_MKDIR);
    code = io->ops->sync_dir(io, dir->path, err);
    if (code == LEVEE_OK) { /* the parent first: FORMAT must not be durable in a directory whose
                               name is not */
        code = io->ops->sync_dir(io, parent_of(dir->path, parent), err);
    }
    crash_at(io, CP_DIR_BEFORE_FORMAT);
    format_encode(dir, o, &bytes);
    if (code == LEVEE_OK) {
        code = bytes.failed ? err_nomem(err, bytes.len)
                            : io_publish(io, dir->path, FORMAT_NAME, buf_view(&bytes), err);
    }
    crash_at(io, CP_DIR_AFTER_FORMAT);
    buf_release(&bytes);
    if (code == LEVEE_OK) {
        dir->fresh = false;
    }
    return code;
}

void rec_dir_close(struct rec_dir *dir)
{
    if (dir->lock) {
        dir->io->ops->unlock(dir->lock);
        dir->lock = NULL;
    }
}
