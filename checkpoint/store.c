/*
 * The store: a directory of versions.
 *
 * A version's name is its manifest: <sequence>-<from>-<to>-<size>-<hash>.ckpt. The hash is XXH3-64
 * of the file's bytes, mixed with the other numbers of the name: a file whose name was changed is
 * as bad as one whose bytes were. Verifying reads the bytes by pread and changes nothing; only a
 * file that equals its name is ever opened by its format.
 *
 * A bad file is never deleted: setting aside moves it into quarantine/, and so does removing it.
 * Removing a good one needs no sync: should a power loss bring it back, it is still true. But the
 * names that make it superfluous must be durable first: after a kill between rename and directory
 * sync the next life sees a name that a power loss may still take. Every publication syncs the
 * directory; a life that removes before it published syncs it then (C7).
 */
#include "checkpoint/ckpt_impl.h"

#include <inttypes.h>
#include <stdio.h>

#define NAME_SUFFIX  ".ckpt" /* the dot ends the last number as a dash ends the others */
#define NAME_NUMBERS 5
#define NUMBER_CHARS 16
/* Five numbers with a dash or the suffix's dot behind each. */
#define NAME_LEN (NAME_NUMBERS * (NUMBER_CHARS + 1) - 1 + sizeof NAME_SUFFIX - 1)

_Static_assert(NAME_LEN < sizeof((struct ckpt_version *)0)->name, "a name fits its field");

/* ---- names ---- */

static uint64_t name_hash(const struct ckpt_version *v, uint64_t file_hash)
{
    uint8_t bytes[5 * 8];
    const uint64_t numbers[5] = {v->sequence, v->from, v->to, v->size, file_hash};

    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        put_le64(bytes + 8 * i, numbers[i]);
    }
    return hash64(bytes, sizeof bytes, 0);
}

void ckpt_version_seal(struct ckpt_version *v, uint64_t file_hash)
{
    v->hash = name_hash(v, file_hash);
    int n = snprintf(v->name, sizeof v->name,
                     "%016" PRIx64 "-%016" PRIx64 "-%016" PRIx64 "-%016" PRIx64
                     "-%016" PRIx64 NAME_SUFFIX,
                     v->sequence, v->from, v->to, v->size, v->hash);
    ASSERT(n == (int)NAME_LEN);
}

/* Sixteen lower-case hex digits; exactly one spelling per number. */
static bool parse_number(const char *s, uint64_t *ret)
{
    uint64_t v = 0;

    for (int i = 0; i < NUMBER_CHARS; i++) {
        char c = s[i];
        if (c >= '0' && c <= '9') {
            v = v << 4 | (uint64_t)(c - '0');
        } else if (c >= 'a' && c <= 'f') {
            v = v << 4 | (uint64_t)(c - 'a' + 10);
        } else {
            return false;
        }
    }
    *ret = v;
    return true;
}

static bool parse_name(const char *name, struct ckpt_version *ret)
{
    struct ckpt_version v = {0};
    uint64_t *const numbers[NAME_NUMBERS] = {&v.sequence, &v.from, &v.to, &v.size, &v.hash};

    if (strlen(name) != NAME_LEN) {
        return false;
    }
    for (size_t i = 0; i < NAME_NUMBERS; i++) {
        const char *at = name + i * (NUMBER_CHARS + 1);
        char behind = i + 1 < NAME_NUMBERS ? '-' : '.';
        if (!parse_number(at, numbers[i]) || at[NUMBER_CHARS] != behind) {
            return false;
        }
    }
    if (strcmp(name + NAME_LEN - strlen(NAME_SUFFIX), NAME_SUFFIX) != 0 || v.from >= v.to) {
        return false;
    }
    memcpy(v.name, name, NAME_LEN + 1);
    *ret = v;
    return true;
}

int ckpt_version_path(const struct ckpt_store *s, const struct ckpt_version *v,
                      char ret[IO_PATH_MAX], struct levee_error *err)
{
    return io_path(ret, s->dir, v->name, err);
}

/* ---- the list ---- */

int ckpt_store_init(struct ckpt_store *s, struct io *io, const struct ckpt_format *format,
                    const char *dir)
{
    size_t len = strlen(dir);

    *s = (struct ckpt_store){.io = io, .format = format, .next_sequence = 1};
    if (len == 0 || len >= IO_PATH_MAX - 128) { /* room for the names */
        return LEVEE_ELIMIT;
    }
    memcpy(s->dir, dir, len + 1);
    return LEVEE_OK;
}

static void forget(struct ckpt_store *s)
{
    mem_free(s->versions.items);
    io_list_free(&s->versions.temps);
    s->versions = (struct ckpt_versions){0};
}

void ckpt_store_release(struct ckpt_store *s)
{
    forget(s);
}

int ckpt_store_reserve(struct ckpt_store *s, struct levee_error *err)
{
    void *items = s->versions.items;

    if (s->versions.count >= CKPT_VERSIONS_MAX) {
        int code = err_set(err, LEVEE_ELIMIT, "too many checkpoint files");
        err_where(err, "%s", s->dir);
        err_expected(err, "at most %d", CKPT_VERSIONS_MAX);
        return code;
    }
    bool ok = mem_grow(&items, &s->versions.cap, s->versions.count + 1, sizeof *s->versions.items);
    s->versions.items = items;
    return ok ? LEVEE_OK : err_nomem(err, sizeof *s->versions.items);
}

void ckpt_store_add(struct ckpt_store *s, const struct ckpt_version *v)
{
    struct ckpt_versions *l = &s->versions;
    size_t at = l->count;

    ASSERT(l->count < l->cap);
    for (; at > 0 && l->items[at - 1].sequence > v->sequence; at--) {
        l->items[at] = l->items[at - 1];
    }
    l->items[at] = *v;
    l->count++;
}

/* A temporary name holds its place in the sequence too, until it is removed. */
static void see_sequence(struct ckpt_store *s, uint64_t sequence)
{
    if (sequence >= s->next_sequence && sequence < UINT64_MAX) {
        s->next_sequence = sequence + 1;
    }
}

static int add_temp(struct ckpt_store *s, size_t *cap, const char *name, struct levee_error *err)
{
    void *items = s->versions.temps.items;
    uint64_t sequence;
    char *copy = mem_strdup(name);
    bool ok =
        copy != NULL && mem_grow(&items, cap, s->versions.temps.count + 1, sizeof(struct io_name));

    s->versions.temps.items = items;
    if (!ok) {
        mem_free(copy);
        return err_nomem(err, strlen(name) + 1);
    }
    s->versions.temps.items[s->versions.temps.count++].name = copy;
    if (strlen(name) >= NUMBER_CHARS && parse_number(name, &sequence)) {
        see_sequence(s, sequence);
    }
    return LEVEE_OK;
}

int ckpt_store_list(struct ckpt_store *s, struct levee_error *err)
{
    struct io_list names = {0};
    struct ckpt_version v;
    size_t temps_cap = 0;
    int rc = s->io->ops->list(s->io, s->dir, &names, err);

    if (rc != LEVEE_OK) {
        return rc;
    }
    forget(s);
    s->names_durable = false;
    for (size_t i = 0; rc == LEVEE_OK && i < names.count; i++) {
        const char *name = names.items[i].name;
        if (io_is_temp(name)) {
            rc = add_temp(s, &temps_cap, name, err);
        } else if (parse_name(name, &v)) {
            rc = ckpt_store_reserve(s, err);
            if (rc == LEVEE_OK) {
                ckpt_store_add(s, &v);
                see_sequence(s, v.sequence);
            }
        }
    }
    io_list_free(&names);
    if (rc != LEVEE_OK) {
        forget(s);
    }
    return rc;
}

/* ---- verifying ---- */

static int judge(const struct ckpt_store *s, struct ckpt_version *v, struct levee_error *err)
{
    char path[IO_PATH_MAX];
    struct io_stat st;
    uint64_t size;
    uint64_t hash;
    int rc = ckpt_version_path(s, v, path, err);

    if (rc == LEVEE_OK) {
        rc = s->io->ops->stat(s->io, path, &st, err);
    }
    if (rc != LEVEE_OK) {
        return rc;
    }
    /* The cheap check first: a large file is not read to learn that it is too short. */
    v->bad = st.kind != IO_FILE || st.size != v->size;
    if (!v->bad) {
        rc = io_hash_file(s->io, path, &size, &hash, err);
        if (rc != LEVEE_OK) {
            return rc;
        }
        v->bad = size != v->size || name_hash(v, hash) != v->hash;
    }
    v->verified = !v->bad;
    return rc;
}

int ckpt_store_verify(struct ckpt_store *s, struct ckpt_version *v, struct levee_error *err)
{
    v->verified = false;
    v->bad = false;
    int rc = judge(s, v, err);

    if (rc == LEVEE_ENOTFOUND) { /* listed and then gone */
        v->bad = true;
        return LEVEE_OK;
    }
    if (rc == LEVEE_OK) {
        return rc;
    }
    /* A file that cannot be read cannot be used; whether it also is set aside, the caller decides.
     * Any other error (no memory, no descriptor) says nothing about the file. */
    v->bad = rc == LEVEE_EIO;
    (void)err_context(err, "checkpoint %s", v->name);
    return rc;
}

/* ---- removing ---- */

static void drop(struct ckpt_store *s, uint64_t sequence, const char *name)
{
    struct ckpt_versions *l = &s->versions;

    for (size_t i = 0; i < l->count; i++) {
        if (l->items[i].sequence == sequence && strcmp(l->items[i].name, name) == 0) {
            memmove(&l->items[i], &l->items[i + 1], (l->count - i - 1) * sizeof *l->items);
            l->count--;
            return;
        }
    }
}

int ckpt_set_aside(struct ckpt_store *s, struct ckpt_version *v, struct levee_error *err)
{
    char path[IO_PATH_MAX];
    struct io_stat st;
    int rc = ckpt_version_path(s, v, path, err);

    if (rc == LEVEE_OK) {
        v->bad = true;
        v->verified = false;
        rc = s->io->ops->stat(s->io, path, &st, err);
    }
    if (rc == LEVEE_OK && st.kind != IO_NONE) { /* a crash may have come between the two */
        rc = io_quarantine(s->io, s->dir, path, err);
    }
    return rc;
}

int ckpt_remove(struct ckpt_store *s, const struct ckpt_version *v, struct levee_error *err)
{
    struct ckpt_version gone = *v; /* v may lie in the list */
    char path[IO_PATH_MAX];
    int rc = ckpt_version_path(s, &gone, path, err);

    if (rc != LEVEE_OK) {
        return rc;
    }
    if (!s->names_durable) {
        rc = s->io->ops->sync_dir(s->io, s->dir, err);
        if (rc != LEVEE_OK) {
            return rc;
        }
        s->names_durable = true;
    }
    crash_at(s->io, CP_CKPT_BEFORE_REMOVE);
    rc = gone.bad ? ckpt_set_aside(s, &gone, err) : s->io->ops->unlink(s->io, path, err);
    if (rc != LEVEE_OK && rc != LEVEE_ENOTFOUND) {
        return rc;
    }
    drop(s, gone.sequence, gone.name);
    crash_at(s->io, CP_CKPT_AFTER_REMOVE);
    return LEVEE_OK;
}

int ckpt_remove_temps(struct ckpt_store *s, struct levee_error *err)
{
    char path[IO_PATH_MAX];

    for (size_t i = 0; i < s->versions.temps.count; i++) {
        int rc = io_path(path, s->dir, s->versions.temps.items[i].name, err);
        if (rc == LEVEE_OK) {
            rc = s->io->ops->unlink(s->io, path, err);
        }
        if (rc != LEVEE_OK && rc != LEVEE_ENOTFOUND) {
            return rc;
        }
    }
    io_list_free(&s->versions.temps);
    return LEVEE_OK;
}
