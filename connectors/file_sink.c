/*
 * The files sink: one published file per non-empty batch, exactly once.
 *
 * The ledger `.levee` in the output directory is one small file, always published whole (temporary
 * name, sync, rename, directory sync). It names the owner {context, uid} and the newest batch,
 * either *prepared* or *committed*.
 *
 *   begin    the ledger is read once per life
 *   commit   1 batch bytes under a temporary name, synced          2 ledger: prepared b
 *            3 rename to the batch's name, directory synced        4 committed in memory; the next
 * ledger write says so on disk
 *
 * After a crash a prepared b is settled by looking for its temporary name: still there → the rename
 * never happened (it is done again, with the same bytes); gone → the file was published, whether or
 * not a consumer has moved it away since. So a batch is never published twice. The ledger of batch
 * b + 1 replaces that of b only after b's rename is durable, which makes step 4 free: two renames,
 * four syncs a batch.
 */
#include <inttypes.h>
#include <stdio.h>

#include "runtime/context.h"

#define LEDGER      ".levee"
#define LEDGER_MAX  4096u
#define FILES_MAGIC "LEVEEOUT"
#define NAME_MAX_   160u

struct files {
    struct io *io;
    char path[IO_PATH_MAX];
    char prefix[65], suffix[33];
    enum levee_value_format value;
    bool adopt, by_time;
    struct levee_token identity, last, now;
    char last_name[NAME_MAX_]; /* of the file of `last`: prefix and suffix may change */
    bool has_last;             /* last: the newest batch of ours that is published */
    bool prepared;             /* the ledger says prepared, and its temporary file is still there */
    bool foreign, made;
    struct levee_token other;
    struct buf bytes;
};

/* ---- the ledger ---- */

static void name_of(const struct files *f, const struct levee_token *t, char out[NAME_MAX_])
{
    if (t->batch == 0) {
        out[0] = 0; /* no file, only the mark */
    } else if (f->by_time) {
        (void)snprintf(out, NAME_MAX_, "%s-%" PRId64 "%s", f->prefix, t->time_ms, f->suffix);
    } else {
        (void)snprintf(out, NAME_MAX_, "%s-%016" PRIu64 "%s", f->prefix, t->batch, f->suffix);
    }
}

/* Version 2 names the file as well: who looks for it later may have another prefix. */
static void ledger_encode(const struct files *f, const struct levee_token *t, struct buf *b)
{
    char name[NAME_MAX_];

    name_of(f, t, name);
    buf_put(b, FILES_MAGIC, 8);
    buf_u32(b, 2);
    buf_slice(b, slice_str(f->identity.context));
    buf_slice(b, slice_str(f->identity.uid));
    buf_u64(b, t->epoch);
    buf_u64(b, t->batch);
    buf_u64(b, (uint64_t)t->time_ms);
    buf_u64(b, t->digest);
    buf_slice(b, slice_str(name));
    buf_u64(b, hash64(b->data, b->len, 0));
}

static bool text(struct cursor *c, char *out, size_t size)
{
    struct levee_slice s = cur_slice(c);

    if (c->bad || s.len >= size) {
        c->bad = true;
        return false;
    }
    memcpy(out, s.data, s.len);
    out[s.len] = 0;
    return true;
}

static int ledger_decode(const struct files *f, struct levee_slice bytes, struct levee_token *ret,
                         char ret_name[NAME_MAX_], struct levee_error *err)
{
    struct cursor c = cursor_of(bytes);
    struct levee_slice magic = cur_bytes(&c, 8);
    uint32_t version = cur_u32(&c);
    bool ok = !c.bad && memcmp(magic.data, FILES_MAGIC, 8) == 0 && bytes.len > 8 &&
              get_le64(bytes.data + bytes.len - 8) == hash64(bytes.data, bytes.len - 8, 0);

    bool known = version == 1 || version == 2;
    if (ok && known) {
        *ret = (struct levee_token){0};
        (void)text(&c, ret->context, sizeof ret->context);
        (void)text(&c, ret->uid, sizeof ret->uid);
        ret->epoch = cur_u64(&c);
        ret->batch = cur_u64(&c);
        ret->time_ms = (int64_t)cur_u64(&c);
        ret->digest = cur_u64(&c);
        name_of(f, ret, ret_name);
        if (version == 2) {
            (void)text(&c, ret_name, NAME_MAX_);
        }
    }
    if (!ok || !known || c.bad) {
        err_set(err, LEVEE_ESINK_FOREIGN, "the ledger of the output directory is damaged or newer");
        err_where(err, "%s/" LEDGER, f->path);
        return LEVEE_ESINK_FOREIGN;
    }
    return LEVEE_OK;
}

static int file_path(const struct files *f, const char *name, bool temp, char out[IO_PATH_MAX],
                     struct levee_error *err)
{
    char full[NAME_MAX_ + 8];

    (void)snprintf(full, sizeof full, "%s%s", name, temp ? IO_TEMP_SUFFIX : "");
    return io_path(out, f->path, full, err);
}

static int exists(struct files *f, const char *path, bool *ret, struct levee_error *err)
{
    struct io_stat st = {0};
    int code = f->io->ops->stat(f->io, path, &st, err);

    *ret = code == LEVEE_OK && st.kind != IO_NONE;
    return code;
}

static int sync_parent(struct files *f, struct levee_error *err)
{
    char parent[IO_PATH_MAX];
    const char *slash = strrchr(f->path, '/');
    size_t n = slash && slash > f->path ? (size_t)(slash - f->path) : 1;

    memcpy(parent, slash ? f->path : ".", n);
    parent[n] = 0;
    return f->io->ops->sync_dir(f->io, parent, err);
}

static int read_ledger(struct files *f, struct levee_error *err)
{
    char path[IO_PATH_MAX], temp[IO_PATH_MAX];
    struct buf b = {0};
    bool there, waiting = false;
    int code = io_path(path, f->path, LEDGER, err);

    if (code || (code = exists(f, path, &there, err)) != LEVEE_OK || !there) {
        return code;
    }
    code = io_read_file(f->io, path, LEDGER_MAX, &b, err);
    if (code == LEVEE_OK) {
        code = ledger_decode(f, buf_view(&b), &f->last, f->last_name, err);
    }
    buf_release(&b);
    if (code) {
        return code;
    }
    if (strcmp(f->last.context, f->identity.context) != 0 ||
        strcmp(f->last.uid, f->identity.uid) != 0) {
        f->foreign = !f->adopt;
        f->other = f->last;
        return LEVEE_OK;
    }
    f->made = true;
    if (f->last.batch == 0) {
        return LEVEE_OK; /* marked, nothing published yet */
    }
    code = file_path(f, f->last_name, true, temp, err);
    if (code == LEVEE_OK) {
        code = exists(f, temp, &waiting, err);
    }
    f->prepared = waiting;
    f->has_last = !waiting;
    return code;
}

static int files_open(void *self, const struct levee_token *identity, struct levee_error *err)
{
    struct files *f = self;
    struct io_stat st = {0};
    int code = f->io->ops->stat(f->io, f->path, &st, err);

    f->identity = *identity;
    f->has_last = f->prepared = f->foreign = false;
    if (code || st.kind == IO_NONE) {
        return code; /* begin makes it */
    }
    if (st.kind != IO_DIR) {
        err_set(err, LEVEE_ESINK_FAILED, "the output path is not a directory");
        err_where(err, "%s", f->path);
        return LEVEE_ESINK_FAILED;
    }
    /* What is read here is acted upon (batches are skipped, checkpoints published), and after a
     * process death it may exist only in the page cache: names are made durable before they count.
     * The files behind them were synced before they were renamed. */
    if ((code = f->io->ops->sync_dir(f->io, f->path, err)) || (code = sync_parent(f, err))) {
        return code;
    }
    return read_ledger(f, err);
}

/* A prepared batch whose temporary file is still there was not published: the token is the one
 * before, which only the log knows; the batch is given again. It is reported as "one less". */
static int files_token(void *self, enum levee_token_state *ret_state, struct levee_token *ret,
                       struct levee_error *err)
{
    struct files *f = self;

    (void)err;
    if (f->foreign) {
        *ret_state = LEVEE_TOKEN_FOREIGN;
        *ret = f->other;
    } else if (f->has_last) {
        *ret_state = LEVEE_TOKEN_FOUND;
        *ret = f->last;
    } else if (f->prepared && f->last.batch > 1) {
        *ret_state = LEVEE_TOKEN_FOUND;
        *ret = f->last;
        ret->batch--;
        ret->digest = 0; /* which that one had is not remembered */
    } else {
        *ret_state = LEVEE_TOKEN_NEVER;
    }
    return LEVEE_OK;
}

static int write_ledger(struct files *f, const struct levee_token *t, struct levee_error *err)
{
    struct buf b = {0};
    int code;

    ledger_encode(f, t, &b);
    code = b.failed ? err_nomem(err, b.len) : io_publish(f->io, f->path, LEDGER, buf_view(&b), err);
    buf_release(&b);
    return code;
}

static int files_begin(void *self, const struct levee_token *token, struct levee_error *err)
{
    struct files *f = self;

    f->now = *token;
    buf_clear(&f->bytes);
    if (f->made) {
        return LEVEE_OK;
    }
    int code = f->io->ops->mkdir(f->io, f->path, err);
    if (code == LEVEE_OK) { /* the mark is the first thing in the directory */
        struct levee_token mark = {.epoch = token->epoch};
        code = write_ledger(f, &mark, err);
    }
    if (code == LEVEE_OK) {
        code = sync_parent(f, err);
    }
    f->made = code == LEVEE_OK;
    return code;
}

static void put_value(struct files *f, struct levee_slice v)
{
    if (f->value == LEVEE_VALUE_I64) {
        buf_printf(&f->bytes, "%" PRId64, levee_i64(v));
    } else if (f->value == LEVEE_VALUE_F64) {
        buf_printf(&f->bytes, "%.17g", levee_f64(v));
    } else {
        buf_put(&f->bytes, v.data, v.len);
    }
}

static int files_write(void *self, size_t partition, const struct levee_record *records, size_t n,
                       struct levee_error *err)
{
    struct files *f = self;

    (void)partition;
    for (size_t i = 0; i < n; i++) {
        if (records[i].key.data) {
            buf_put(&f->bytes, records[i].key.data, records[i].key.len);
            buf_u8(&f->bytes, '\t');
        }
        put_value(f, records[i].value);
        buf_u8(&f->bytes, '\n');
    }
    return f->bytes.failed ? err_nomem(err, f->bytes.len) : LEVEE_OK;
}

static int write_temp(struct files *f, const char *temp, struct levee_error *err)
{
    struct io_file *file = NULL;
    struct iovec iov = {f->bytes.data, f->bytes.len};
    int code = f->io->ops->open(f->io, temp, IO_WRITE | IO_CREATE | IO_TRUNCATE, &file, err);

    if (code) {
        return code;
    }
    code = f->bytes.len ? f->io->ops->pwritev(file, &iov, 1, 0, err) : LEVEE_OK;
    crash_at(f->io, CP_FILE_SINK_AFTER_WRITE);
    if (code == LEVEE_OK) {
        code = f->io->ops->sync(file, err);
        crash_at(f->io, CP_FILE_SINK_AFTER_SYNC);
        /* A failed sync is final, whatever its class: the context stops and recovery writes the
         * file anew. */
        code = code && code != LEVEE_ECRASHED
                   ? err_set(err, LEVEE_ESINK_FAILED, "syncing %s failed", temp)
                   : code;
    }
    f->io->ops->close(file);
    return code;
}

static int files_commit(void *self, struct levee_error *err)
{
    struct files *f = self;
    char temp[IO_PATH_MAX], final[IO_PATH_MAX], name[NAME_MAX_];
    int code;

    name_of(f, &f->now, name);
    if ((code = file_path(f, name, true, temp, err)) ||
        (code = file_path(f, name, false, final, err)) || (code = write_temp(f, temp, err))) {
        return code;
    }
    code = f->io->ops->sync_dir(
        f->io, f->path, err); /* the temporary name is the evidence: durable before the ledger */
    if (code == LEVEE_OK) {
        code = write_ledger(f, &f->now, err);
        crash_at(f->io, CP_FILE_SINK_AFTER_LEDGER);
    }
    if (code == LEVEE_OK) {
        code = f->io->ops->rename(f->io, temp, final, err);
        crash_at(f->io, CP_FILE_SINK_AFTER_RENAME);
    }
    if (code == LEVEE_OK) {
        code = f->io->ops->sync_dir(f->io, f->path, err);
        crash_at(f->io, CP_FILE_SINK_AFTER_DIR_SYNC);
    }
    if (code == LEVEE_OK) {
        f->last = f->now;
        f->has_last = true;
        f->prepared = false;
    }
    return code;
}

static void files_abort(void *self)
{
    buf_clear(&((struct files *)self)->bytes);
}

static void files_destroy(void *self)
{
    struct files *f = self;

    buf_release(&f->bytes);
    mem_free(f);
}

static const struct levee_sink_ops files_ops = {
    .version = 1,
    .kind = LEVEE_SINK_TRANSACTIONAL,
    .open = files_open,
    .last_token = files_token,
    .begin = files_begin,
    .write = files_write,
    .commit = files_commit,
    .abort = files_abort,
    .destroy = files_destroy,
};

int levee_file_sink_at(levee_stream *s, const char *uid, const struct levee_file_sink_options *o,
                       const char *file, int line)
{
    if (!s) {
        return LEVEE_EINVALID;
    }
    if (!o || !o->path || !o->path[0] || strlen(o->path) >= IO_PATH_MAX - 200 ||
        (o->prefix && strlen(o->prefix) > 64) || (o->suffix && strlen(o->suffix) > 32)) {
        (void)rt_graph_fail(s->graph, file, line, LEVEE_EINVALID,
                            "files sink %s: path missing, or a name too long", uid ? uid : "");
        return LEVEE_EINVALID;
    }
    struct files *f = mem_zalloc(sizeof *f);
    if (!f) {
        (void)rt_graph_fail(s->graph, file, line, LEVEE_ENOMEM, "files sink %s", uid ? uid : "");
        return LEVEE_ENOMEM;
    }
    f->io = rt_context_io(rt_stream_context(s));
    f->value = o->value;
    f->adopt = o->adopt;
    f->by_time = o->name_by_time;
    (void)snprintf(f->path, sizeof f->path, "%s", o->path);
    (void)snprintf(f->prefix, sizeof f->prefix, "%s", o->prefix ? o->prefix : "batch");
    (void)snprintf(f->suffix, sizeof f->suffix, "%s", o->suffix ? o->suffix : ".txt");
    int code = levee_sink_at(s, uid, &files_ops, f, file, line);
    if (code) {
        mem_free(f);
    }
    return code;
}
