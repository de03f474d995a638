/*
 * The ledger of the directory source on the simulated disk, against a model that keeps it as a
 * list: whatever a power loss or process death leaves, what was committed is read back, and of what
 * was being committed all or nothing. Damage and loss are refused by name.
 */
#include <stdio.h>
#include <string.h>

#include "connectors/dir_ledger.h"
#include "tests/support/suite.h"

#define CONTEXT "0123456789abcdef0123456789abcdef"
#define FILES   400
#define LIVES   60

struct model_file {
    char path[64];
    uint64_t inode, birth, size, base, last, hash;
    int64_t mtime_ns;
    uint8_t flags;
};
struct model {
    struct model_file files[FILES];
    size_t count;
    uint64_t next_base;
};

static struct io *io;
static struct dir_ledger ledger;
static struct model now, durable;
static uint64_t rng;

static uint64_t roll(uint64_t n)
{
    return rng_next(&rng) % n;
}

static void begin_disk(uint64_t seed)
{
    struct sim_faults f = {.seed = seed, .keep_per_mille = 400, .garble_per_mille = 300};

    rng = seed;
    memset(&now, 0, sizeof now);
    memset(&durable, 0, sizeof durable);
    ck_assert_int_eq(io_sim_new(&f, &io, NULL), LEVEE_OK);
    ck_assert_int_eq(io->ops->mkdir(io, "state", NULL), LEVEE_OK);
    ck_assert_int_eq(io->ops->sync_dir(io, "/", NULL), LEVEE_OK);
}

static int open_at(uint64_t position, struct levee_error *err)
{
    return dir_ledger_open(&ledger, io, "state", "in", CONTEXT, position, err);
}

static bool same(const struct model *m)
{
    size_t live = 0;

    for (size_t i = 0; i < m->count; i++) {
        const struct model_file *f = &m->files[i];
        if (f->flags & DIR_VOID) {
            continue;
        }
        live++;
        size_t at = dir_ledger_by_path(&ledger, f->path);
        struct io_stat st = {.inode = f->inode, .birth = f->birth, .mtime_ns = f->mtime_ns};
        if (at == DIR_NONE || dir_ledger_by_inode(&ledger, &st) != at) {
            return false;
        }
        const struct dir_entry *e = &ledger.entries[at];
        if (e->base != f->base || e->size != f->size || e->mtime_ns != f->mtime_ns ||
            e->flags != f->flags || e->last != f->last || e->hash != f->hash) {
            return false;
        }
    }
    for (size_t i = 0; i < ledger.count; i++) {
        live -= !(ledger.entries[i].flags & DIR_VOID);
    }
    return live == 0 && ledger.next_base == m->next_base;
}

/* A change that the model makes too. Indices are found by name: a fold changes them. */
static void change(void)
{
    size_t which = now.count ? (size_t)roll(now.count) : 0;
    struct model_file *f = &now.files[which];
    bool open_last =
        now.count && (now.files[now.count - 1].flags & (DIR_OPEN | DIR_VOID)) == DIR_OPEN;

    if (now.count < FILES && !open_last && (now.count == 0 || roll(3) == 0)) {
        f = &now.files[now.count];
        (void)snprintf(f->path, sizeof f->path, "sub/%zu-%0*d", now.count, (int)roll(40) + 1, 7);
        struct io_stat st = {.inode = 1000 + now.count,
                             .birth = roll(2) ? 5 + now.count : 0,
                             .size = roll(4) ? roll(100000) : 0,
                             .mtime_ns = (int64_t)(roll(1u << 30) << 20) + (int64_t)now.count};
        bool open = roll(5) == 0;
        size_t index;
        *f = (struct model_file){.inode = st.inode,
                                 .birth = st.birth,
                                 .size = st.size,
                                 .mtime_ns = st.mtime_ns,
                                 .base = now.next_base,
                                 .last = now.next_base,
                                 .flags = open ? DIR_OPEN : 0};
        (void)snprintf(f->path, sizeof f->path, "sub/%zu-%0*d", now.count, (int)roll(40) + 1, 7);
        MUST(dir_ledger_begin(&ledger, f->path, &st, open, &index, NULL) == LEVEE_OK);
        now.next_base += open ? 0 : st.size + 1;
        now.count++;
        return;
    }
    if (f->flags & DIR_VOID) {
        return;
    }
    size_t index = dir_ledger_by_path(&ledger, f->path);
    MUST(index != DIR_NONE);
    if (!(f->flags & DIR_ENDED)) {
        if (roll(6) == 0) {
            dir_ledger_void(&ledger, index);
            f->flags |= DIR_VOID;
            return;
        }
        uint64_t length = f->flags & DIR_OPEN ? f->size * 3 : f->size,
                 last = f->base + roll(length + 2);
        bool cut = roll(9) == 0;
        f->last = last;
        f->hash = roll(UINT64_MAX);
        dir_ledger_end(&ledger, index, last, length, f->hash, cut);
        if (f->flags & DIR_OPEN) {
            now.next_base = f->base + length + 1;
        }
        f->flags = (uint8_t)((f->flags & ~DIR_OPEN) | DIR_ENDED | (cut ? DIR_CUT : 0));
    } else {
        bool changed = roll(4) == 0;
        (void)snprintf(f->path, sizeof f->path, "moved/%zu.%u", which, (unsigned)roll(1000));
        f->mtime_ns += (int64_t)roll(3);
        f->flags = (uint8_t)(f->flags | (changed ? DIR_CHANGED : 0));
        struct io_stat st = {.inode = f->inode, .birth = f->birth, .mtime_ns = f->mtime_ns};
        MUST(dir_ledger_know(&ledger, index, f->path, &st, changed, NULL) == LEVEE_OK);
    }
}

/* Changes, commits and folds until a step fails (true) or the work is done. */
static bool live(size_t rounds, uint64_t position)
{
    for (size_t i = 0; i < rounds; i++) {
        for (uint64_t n = roll(12) + 1; n; n--) {
            change();
        }
        if (dir_ledger_commit(&ledger, NULL)) {
            return true;
        }
        durable = now;
        if (roll(6) == 0 && dir_ledger_fold(&ledger, position, NULL)) {
            return true;
        }
        MUST(same(&now));
    }
    return false;
}

static void one_history(uint64_t seed, bool power)
{
    struct levee_error err = {0};
    char line[1024];
    size_t crashes = 0;

    begin_disk(seed);
    for (size_t l = 0; l < LIVES; l++) {
        struct sim_faults f = {.seed = seed + l,
                               .crash_at_step = roll(3) ? 1 + roll(60) : 0,
                               .keep_per_mille = (uint32_t)roll(1001),
                               .garble_per_mille = (uint32_t)roll(1001)};
        uint64_t position = durable.next_base && roll(2) ? roll(durable.next_base + 1) : 0;
        io_sim_set_faults(io, &f);
        int code = open_at(position, &err);
        if (code == LEVEE_OK) {
            if (!same(&durable)) {
                ck_assert_msg(same(&now), "seed %llu life %zu", (unsigned long long)seed, l);
                durable = now;
            }
            now = durable;
            crashes += live(8, position);
            dir_ledger_close(&ledger);
        } else {
            ck_assert_msg(io_sim_crashed(io), "seed %llu: %s", (unsigned long long)seed,
                          levee_error_format(&err, line, sizeof line));
        }
        if (power) {
            io_sim_power_loss(io);
        } else {
            io_sim_kill(io);
        }
    }
    ck_assert_uint_gt(crashes, 5);
    io_free(io);
}

START_TEST(f_power_losses_leave_what_was_committed)
{
    for (uint64_t seed = 1; seed <= 40; seed++) {
        one_history(seed, true);
    }
}
END_TEST

START_TEST(f_process_deaths_leave_what_was_committed)
{
    for (uint64_t seed = 100; seed <= 115; seed++) {
        one_history(seed, false);
    }
}
END_TEST

/* A ledger with a folded part and `frames` frames of one file each. */
static void history(size_t frames)
{
    struct levee_error err = {0};
    size_t index;

    begin_disk(1);
    ck_assert_int_eq(open_at(0, &err), LEVEE_OK);
    for (size_t i = 0; i < frames + 2; i++) {
        char path[16];
        struct io_stat st = {.inode = i + 1, .birth = i + 1, .size = 9};
        (void)snprintf(path, sizeof path, "f%zu", i);
        ck_assert_int_eq(dir_ledger_begin(&ledger, path, &st, false, &index, &err), LEVEE_OK);
        dir_ledger_end(&ledger, index, ledger.entries[index].base + 5, 9, 77, false);
        ck_assert_int_eq(dir_ledger_commit(&ledger, &err), LEVEE_OK);
        if (i == 1) {
            ck_assert_int_eq(dir_ledger_fold(&ledger, 0, &err), LEVEE_OK);
        }
    }
    ck_assert_uint_eq(ledger.next_base, (frames + 2) * 10);
    dir_ledger_close(&ledger);
}

static void flip(const char *name, uint64_t offset)
{
    char path[64];
    uint64_t size;

    (void)snprintf(path, sizeof path, "state/sources/in/%s", name);
    uint8_t *bytes = io_sim_bytes(io, path, &size);
    ck_assert(bytes != NULL && offset < size);
    bytes[offset] ^= 0x10;
}

static void must_refuse(uint64_t position, const char *where)
{
    struct levee_error err = {0};

    ck_assert_int_eq(open_at(position, &err), LEVEE_ELEDGER);
    ck_assert_msg(strstr(err.where, where) != NULL, "%s", err.where);
}

START_TEST(f_damage_before_a_frame_that_verifies_is_refused)
{
    for (uint64_t frame = 1; frame <= 2; frame++) {
        history(3);
        flip("files.tail", frame * 4096 + 20);
        must_refuse(0, "files.tail");
        io_free(io);
    }
}
END_TEST

START_TEST(f_damage_at_the_end_is_cut_unless_the_log_knows_better)
{
    struct levee_error err = {0};

    history(3);
    flip("files.tail", (uint64_t)3 * 4096 + 20);
    must_refuse(45, "files.tail"); /* the log holds records of the fifth file */
    ck_assert_int_eq(open_at(35, &err), LEVEE_OK);
    ck_assert_uint_eq(ledger.count, 4);
    ck_assert_uint_eq(ledger.next_base, 40);
    struct io_stat st = {.inode = 50, .size = 1};
    size_t index;
    ck_assert_int_eq(dir_ledger_begin(&ledger, "new", &st, false, &index, &err), LEVEE_OK);
    ck_assert_int_eq(dir_ledger_commit(&ledger, &err), LEVEE_OK);
    dir_ledger_close(&ledger);
    ck_assert_int_eq(open_at(41, &err), LEVEE_OK);
    ck_assert_uint_eq(dir_ledger_by_path(&ledger, "new"), 4);
    ck_assert_uint_eq(dir_ledger_by_path(&ledger, "f4"), DIR_NONE);
    dir_ledger_close(&ledger);
    io_free(io);
}
END_TEST

START_TEST(f_damage_anywhere_else_and_missing_files_are_refused)
{
    history(1);
    flip("files.tail", 30);
    must_refuse(0, "files.tail");
    io_free(io);
    history(1);
    flip("files.seen", 100);
    must_refuse(0, "files.seen");
    io_free(io);
    history(1);
    ck_assert_int_eq(io->ops->unlink(io, "state/sources/in/files.seen", NULL), LEVEE_OK);
    must_refuse(0, "files.seen");
    io_free(io);
    history(1);
    ck_assert_int_eq(io->ops->unlink(io, "state/sources/in/files.tail", NULL), LEVEE_OK);
    must_refuse(0, "files.tail");
    ck_assert_int_eq(io->ops->unlink(io, "state/sources/in/files.seen", NULL), LEVEE_OK);
    must_refuse(3, "files.tail"); /* all of it is gone, and the log tells */
    io_free(io);
}
END_TEST

START_TEST(a_ledger_of_another_context_is_refused)
{
    struct levee_error err = {0};

    history(1);
    ck_assert_int_eq(
        dir_ledger_open(&ledger, io, "state", "in", "fedcba9876543210fedcba9876543210", 0, &err),
        LEVEE_ELEDGER);
    ck_assert_ptr_nonnull(strstr(err.what, "another context"));
    io_free(io);
}
END_TEST

/* What it costs on disk, measured here and promised in docs/directory.md. */
START_TEST(an_old_file_costs_about_sixty_bytes_and_its_name)
{
    struct levee_error err = {0};
    struct io_stat st = {.inode = 5000000, .birth = 1700000000000000000u, .size = 20000};
    struct io_stat seen = {0};
    size_t index, n = 5000;
    char path[32];

    begin_disk(1);
    ck_assert_int_eq(open_at(0, &err), LEVEE_OK);
    for (size_t i = 0; i < n; i++) {
        (void)snprintf(path, sizeof path, "2026/part-%06zu.log", i); /* 20 bytes */
        st.inode++;
        st.mtime_ns = (int64_t)st.birth;
        MUST(dir_ledger_begin(&ledger, path, &st, false, &index, &err) == LEVEE_OK);
        dir_ledger_end(&ledger, index, ledger.entries[index].base + 19990, 20000, ~(uint64_t)i,
                       false);
    }
    ck_assert_int_eq(dir_ledger_commit(&ledger, &err), LEVEE_OK);
    ck_assert_int_eq(dir_ledger_fold(&ledger, 0, &err), LEVEE_OK);
    ck_assert_int_eq(io->ops->stat(io, "state/sources/in/files.seen", &seen, &err), LEVEE_OK);
    ck_assert_uint_lt(seen.size, n * (20 + 45));
    ck_assert_uint_eq(ledger.count, n);
    ck_assert_uint_eq(dir_ledger_by_path(&ledger, "2026/part-004999.log"), 4999);
    dir_ledger_close(&ledger);
    io_free(io);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("dir_ledger");
    TCase *t = tcase_create("ledger");

    tcase_add_test(t, f_power_losses_leave_what_was_committed);
    tcase_add_test(t, f_process_deaths_leave_what_was_committed);
    tcase_add_test(t, f_damage_before_a_frame_that_verifies_is_refused);
    tcase_add_test(t, f_damage_at_the_end_is_cut_unless_the_log_knows_better);
    tcase_add_test(t, f_damage_anywhere_else_and_missing_files_are_refused);
    tcase_add_test(t, a_ledger_of_another_context_is_refused);
    tcase_add_test(t, an_old_file_costs_about_sixty_bytes_and_its_name);
    suite_add_tcase(s, t);
    return suite_main(s);
}
