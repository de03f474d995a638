/*
 * Looking: what checkpoint and log say, read-only. Every version is verified (size and whole hash),
 * the longest chain that verifies is chosen, then the log is scanned with that chain's durable LSN
 * as a witness. Damage is a fact here, never an error.
 */
#include "recovery/recovery.h"

static int verify_all(struct rec_facts *f, struct levee_error *err)
{
    struct ckpt_versions *v = &f->store.versions;

    for (size_t i = 0; i < v->count; i++) {
        int code = ckpt_store_verify(&f->store, &v->items[i], err);
        if (code == LEVEE_EIO && v->items[i].bad) {
            err_clear(err); /* an unreadable file is a bad file: another chain or the log may do */
            code = LEVEE_OK;
        }
        if (code == LEVEE_OK && v->items[i].verified) {
            code = ckpt_read_replay_from(&f->store, &v->items[i], err);
        }
        if (code) {
            return code;
        }
        f->bad_versions += v->items[i].bad;
    }
    return LEVEE_OK;
}

static int read_u64_meta(struct rec_facts *f, struct ckpt_version *v, const char *key,
                         uint64_t *ret, struct levee_error *err)
{
    struct buf b = {0};
    int code = ckpt_read_meta(&f->store, v, slice_str(key), &b, err);

    if (code == LEVEE_OK && b.len == 8) {
        *ret = get_le64(b.data);
    } else if (code == LEVEE_OK || code == LEVEE_ENOTFOUND) {
        err_set(err, LEVEE_ECKPT_CORRUPT, "a version lacks its %s", key);
        err_where(err, "%s", v->name);
        code = LEVEE_ECKPT_CORRUPT;
    }
    buf_release(&b);
    return code;
}

static int look_at_checkpoints(struct rec_dir *dir, const struct ckpt_format *format,
                               struct rec_facts *f, struct levee_error *err)
{
    int code = ckpt_store_init(&f->store, dir->io, format, dir->ckpt);

    if (code || (code = ckpt_store_list(&f->store, err)) || (code = verify_all(f, err))) {
        return code;
    }
    ckpt_chain_best(&f->store.versions, &f->chain);
    f->ckpt_replay_from = 1;
    if (f->chain.count) {
        struct ckpt_version *last = &f->store.versions.items[f->chain.index[f->chain.count - 1]];
        f->ckpt_batch = f->chain.to;
        code = read_u64_meta(f, last, REC_META_REPLAY_FROM, &f->ckpt_replay_from, err);
        if (code == LEVEE_OK) {
            code = read_u64_meta(f, last, REC_META_DURABLE_LSN, &f->ckpt_durable_lsn, err);
        }
    }
    return code;
}

int rec_look(struct rec_dir *dir, const struct ckpt_format *format, struct rec_facts *ret,
             struct levee_error *err)
{
    struct rec_facts f = {0};
    int code = look_at_checkpoints(dir, format, &f, err);

    if (code == LEVEE_OK) {
        code = wal_scan(dir->io, dir->wal, &dir->context, f.ckpt_durable_lsn, &f.wal, err);
    }
    if (code) {
        rec_facts_release(&f);
        return code;
    }
    f.newest_open = f.ckpt_batch;
    for (size_t i = 0; i < f.wal.entry_count; i++) {
        const struct wal_entry *e = &f.wal.entries[i];
        if (e->type == WAL_BATCH_OPEN && e->seq > f.newest_open) {
            f.newest_open = e->seq;
        } else if (e->type == WAL_CHECKPOINT_MARK && e->seq > f.marked_batch) {
            f.marked_batch = e->seq;
        }
    }
    crash_at(dir->io, CP_REC_AFTER_FACTS);
    *ret = f;
    return LEVEE_OK;
}

void rec_facts_release(struct rec_facts *f)
{
    ckpt_store_release(&f->store);
    wal_facts_release(&f->wal);
    *f = (struct rec_facts){0};
}
