/*
 * LMDB's own I/O fails, or its process or power dies in the middle: what the simulated disk cannot
 * reach.
 *
 * Method: the interposer is compiled in, so LMDB's writes and our syncs go through it; each life is
 * a child process with settings of its own. A life publishes batch after batch and folds, as the
 * runtime does, and writes one byte to a pipe for every publication that returned. The judge is the
 * parent: every name belongs to a file that equals it, and every batch that was reported is reached
 * by a chain that loads as the model's state (J1 and J2 of test_ckpt_crash.c). Loss: said at each
 * test. The interposer takes back bytes and sizes, not names.
 */
/* Compiled in, its definitions come before the C library's.
 * NOLINTNEXTLINE(bugprone-suspicious-include) */
#include "tests/support/interpose/interpose.c"

#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "tests/unit/test_ckpt.h"

#define BATCHES 9

#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#endif
#ifndef WITH_ASAN
#define WITH_ASAN 0
#endif

static struct place place;
static struct levee_error err;
static struct model model;
static char child_faults[3][128]; /* LEVEE_INTERPOSE_FAIL, _POWER, _KEEP */

static void open_place(void)
{
    place_open(&place, PLACE_LMDB, NULL);
    model_fill(&model, BATCHES, 5);
    memset(child_faults, 0, sizeof child_faults);
}

static void close_place(void)
{
    place_close(&place);
    ck_assert_int_eq(mem_live(), 0);
}

/* ---- lives ---- */

static int report_fd = -1;

static int publish_and_report(struct ckpt_store *s, uint64_t b)
{
    struct ckpt_version v;
    int rc = model_publish(&model, s, b, b + 1, &v, &err);

    if (rc == LEVEE_OK && report_fd >= 0) {
        ck_assert_int_eq(syscall(SYS_write, report_fd, "+", 1), 1);
    }
    return rc;
}

static int live(struct ckpt_store *s)
{
    struct ckpt_chain best;
    struct ckpt_fold_plan plan;
    struct ckpt_version v;
    int rc = ckpt_store_list(s, &err);

    for (size_t i = 0; rc == LEVEE_OK && i < s->versions.count; i++) {
        rc = ckpt_store_verify(s, &s->versions.items[i], &err);
    }
    rc = rc == LEVEE_OK ? ckpt_remove_temps(s, &err) : rc;
    ckpt_chain_best(&s->versions, &best);
    for (uint64_t b = best.to; rc == LEVEE_OK && b < BATCHES; b++) {
        rc = publish_and_report(s, b);
        if (rc == LEVEE_OK && ckpt_fold_due(&s->versions, 4, &plan)) {
            rc = fold_all(s, &plan, 10000, &v, &err);
        }
        rc = rc == LEVEE_OK ? retain_all(s, &err) : rc;
    }
    return rc;
}

static void set_or_clear(const char *name, const char *value)
{
    if (value[0] != '\0') {
        ck_assert_int_eq(setenv(name, value, 1), 0);
    } else {
        ck_assert_int_eq(unsetenv(name), 0);
    }
}

/* One life in a child. Returns its error code, or 1 if it was killed; counts reported publications.
 */
static int child_life(int (*life)(struct ckpt_store *s), unsigned *ret_published)
{
    char pattern_text[IO_PATH_MAX + 4];
    char bytes[64];
    int pipes[2];
    int status = 0;
    ssize_t n;

    ck_assert_int_eq(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0) {
        struct ckpt_store s;
        snprintf(pattern_text, sizeof pattern_text, "%s/*", place.dir);
        set_or_clear("LEVEE_INTERPOSE_MATCH", pattern_text);
        set_or_clear("LEVEE_INTERPOSE_FAIL", child_faults[0]);
        set_or_clear("LEVEE_INTERPOSE_POWER", child_faults[1]);
        set_or_clear("LEVEE_INTERPOSE_KEEP", child_faults[2]);
        is_ready = false; /* the interposer reads its settings anew */
        report_fd = pipes[1];
        place.io->pid = (uint32_t)getpid();
        int rc = ckpt_store_init(&s, place.io, place.format, place.dir);
        rc = rc == LEVEE_OK ? life(&s) : rc;
        ckpt_store_release(&s);
        _exit(rc > -255 ? -rc : 255);
    }
    ck_assert_int_gt(child, 0);
    ck_assert_int_eq(close(pipes[1]), 0);
    *ret_published = 0;
    while ((n = read(pipes[0], bytes, sizeof bytes)) > 0) {
        *ret_published += (unsigned)n;
    }
    ck_assert_int_eq(close(pipes[0]), 0);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status)) {
        ck_assert_int_eq(WTERMSIG(status), SIGKILL);
        return 1;
    }
    return WEXITSTATUS(status) == 0 ? LEVEE_OK : -WEXITSTATUS(status);
}

/* Returns the highest batch reached; `promised` were reported. */
static uint64_t check_versions(uint64_t promised)
{
    struct ckpt_store s;
    struct ckpt_chain best;

    ck_assert_int_eq(ckpt_store_init(&s, place.io, place.format, place.dir), LEVEE_OK);
    ck_assert_int_eq(ckpt_store_list(&s, &err), LEVEE_OK);
    for (size_t i = 0; i < s.versions.count; i++) {
        ck_assert_int_eq(ckpt_store_verify(&s, &s.versions.items[i], &err), LEVEE_OK);
        ck_assert(!s.versions.items[i].bad);
    }
    ckpt_chain_best(&s.versions, &best);
    ck_assert_uint_ge(best.to, promised);
    if (best.to > 0) {
        ck_assert_int_eq(model_check(&model, &s, &best, 0, &err), LEVEE_OK);
    }
    ckpt_store_release(&s);
    return best.to;
}

/* The next life, with no faults, goes on to the end. */
static void finish(void)
{
    unsigned published;

    memset(child_faults, 0, sizeof child_faults);
    ck_assert_int_eq(child_life(live, &published), LEVEE_OK);
    ck_assert_uint_eq(check_versions(BATCHES), BATCHES);
}

/* ---- process death ---- */

static enum crash_point kill_point;
static unsigned kill_hit, hits;

static void kill_here(enum crash_point point, void *arg)
{
    (void)arg;
    if (point == kill_point && ++hits == kill_hit) {
        (void)kill(getpid(), SIGKILL);
    }
}

/* Faults 15, 16: a real SIGKILL at every named point, the first and a later time; each must be hit.
 * Process death. */
START_TEST(f15_kill_at_every_named_point_leaves_whole_versions)
{
    static const enum crash_point points[] = {
        CP_CKPT_AFTER_BUILD,  CP_CKPT_AFTER_VERIFY,   CP_CKPT_AFTER_SYNC,
        CP_CKPT_AFTER_RENAME, CP_CKPT_AFTER_DIR_SYNC, CP_CKPT_BEFORE_REMOVE,
        CP_CKPT_AFTER_REMOVE, CP_FOLD_AFTER_BUILD,    CP_FOLD_AFTER_PUBLISH};
    unsigned published;

    for (size_t p = 0; p < ARRAY_LEN(points); p++) {
        for (unsigned nth = 1; nth <= 2; nth++) {
            open_place();
            kill_point = points[p];
            kill_hit = nth;
            place.io->crash_hook = kill_here;
            ck_assert_int_eq(child_life(live, &published), 1);
            place.io->crash_hook = NULL;
            (void)check_versions(published);
            finish();
            close_place();
        }
    }
}
END_TEST

/* ---- power loss ---- */

/* The power fails instead of the n-th write, and instead of the n-th sync, until a life outlives n;
 * of the unsynced sectors none or some survive. LMDB's pages and ours alike. Faults 8, 9, 16, 34.
 */
START_TEST(f16_power_loss_at_every_write_and_sync_of_lmdb)
{
    static const char *const calls[] = {"anywrite", "anysync"};
    static const char *const keeps[] = {"0", "500"};
    unsigned published;
    unsigned deaths = 0;

    for (size_t k = 0; k < ARRAY_LEN(keeps); k++) {
        for (size_t c = 0; c < ARRAY_LEN(calls); c++) {
            int rc = 1;
            for (unsigned n = 1; rc != LEVEE_OK; n++) {
                ck_assert_uint_lt(n, 1000);
                open_place();
                snprintf(child_faults[1], sizeof child_faults[1], "%s:%u", calls[c], n);
                snprintf(child_faults[2], sizeof child_faults[2], "%s", keeps[k]);
                rc = child_life(live, &published);
                ck_assert(rc == LEVEE_OK || rc == 1);
                deaths += rc == 1;
                (void)check_versions(published);
                finish();
                close_place();
            }
        }
    }
    ck_assert_uint_gt(deaths, 60);
}
END_TEST

/* ---- errors ---- */

static unsigned count_names(const char *suffix)
{
    struct io_list list = {0};
    unsigned n = 0;

    ck_assert_int_eq(place.io->ops->list(place.io, place.dir, &list, &err), LEVEE_OK);
    for (size_t i = 0; i < list.count; i++) {
        size_t len = strlen(list.items[i].name);
        n += len > 5 && strcmp(list.items[i].name + len - strlen(suffix), suffix) == 0;
    }
    io_list_free(&list);
    return n;
}

/* Fault 42: any write of LMDB fails with EIO, pages and meta pages alike. The publication is over,
 * its file stays a temporary name, what was published stays. */
START_TEST(f42_an_error_of_any_lmdb_write_fails_the_publication)
{
    unsigned published;
    unsigned failures = 0;
    int rc = LEVEE_ECKPT_FAILED;

    for (unsigned n = 1; rc != LEVEE_OK; n++) {
        ck_assert_uint_lt(n, 1000);
        open_place();
        snprintf(child_faults[0], sizeof child_faults[0], "anywrite:%u:%d", n, EIO);
        rc = child_life(live, &published);
        ck_assert(rc == LEVEE_OK || rc == LEVEE_ECKPT_FAILED);
        if (rc == LEVEE_ECKPT_FAILED) {
            ck_assert_uint_le(count_names(".tmp"), 1);
            failures++;
        }
        (void)check_versions(published);
        finish();
        close_place();
    }
    ck_assert_uint_gt(failures, 20);
}
END_TEST

static int life_sync_fails(struct ckpt_store *s)
{
    int rc = live(s);

    /* The file whose sync failed stays as it is, under its temporary name; the store does not try
     * it again. */
    if (rc != LEVEE_ECKPT_FAILED || err.sys_errno != EIO ||
        counter_get(&place.io->counts.renames) > 2) {
        return LEVEE_EINVALID;
    }
    return rc;
}

/* Faults 38, 41: the sync of the third version fails once; the next one would "succeed". It is
 * never asked. Power loss afterwards takes what the failed sync held. */
START_TEST(f41_a_failed_sync_is_final)
{
    unsigned published;

    open_place();
    snprintf(child_faults[0], sizeof child_faults[0], "anysync:3:%d", EIO);
    ck_assert_int_eq(child_life(life_sync_fails, &published), LEVEE_ECKPT_FAILED);
    ck_assert_uint_eq(published, 2);
    ck_assert_uint_eq(count_names(".tmp"), 1);
    ck_assert_uint_eq(count_names(".ckpt"), 2);
    ck_assert_uint_eq(check_versions(2), 2);
    finish();
    ck_assert_uint_eq(count_names(".tmp"), 0);
    close_place();
}
END_TEST

static int life_full_disk(struct ckpt_store *s)
{
    int rc = ckpt_store_list(s, &err);

    rc = rc == LEVEE_OK ? publish_and_report(s, 0) : rc;
    if (rc != LEVEE_ENOSPACE || count_names(".tmp") > 0 || s->versions.count > 0) {
        return LEVEE_EINVALID;
    }
    rc = live(s); /* the same life goes on; the interposer's short write is followed by one more
                     failure */
    return rc == LEVEE_ENOSPACE ? live(s) : rc;
}

/* Fault 68: ENOSPC of any write of the first version, as itself. */
START_TEST(f68_a_full_disk_in_lmdb_is_retried_by_the_same_life)
{
    unsigned published;

    for (unsigned n = 1; n <= 3; n++) {
        open_place();
        snprintf(child_faults[0], sizeof child_faults[0], "anywrite:%u:%d", n, ENOSPC);
        ck_assert_int_eq(child_life(life_full_disk, &published), LEVEE_OK);
        ck_assert_uint_eq(published, BATCHES);
        ck_assert_uint_eq(check_versions(BATCHES), BATCHES);
        close_place();
    }
}
END_TEST

static int no_space(struct io *io, const char *path, uint64_t *ret, struct levee_error *e)
{
    (void)io;
    (void)path;
    (void)e;
    *ret = 0;
    return LEVEE_OK;
}

/* Fault 68 as it really comes: LMDB makes EIO of a short write, and only the free space tells what
 * it was. */
START_TEST(f68_a_short_write_on_a_full_disk_is_no_space)
{
    struct io_ops ops;
    unsigned published;

    for (int full = 0; full < 2; full++) {
        open_place();
        const struct io_ops *real = place.io->ops;
        ops = *real;
        ops.free_space = full ? no_space : real->free_space;
        place.io->ops = &ops;
        snprintf(child_faults[0], sizeof child_faults[0], "anywrite:2:%d:100", ENOSPC);
        int rc = child_life(life_full_disk, &published);
        /* With room on the disk the same short write is what it says: an I/O error. */
        ck_assert_int_eq(rc, full ? LEVEE_OK : LEVEE_EINVALID);
        place.io->ops = real;
        finish();
        close_place();
    }
}
END_TEST

/* Fault 68 on a real full file system, where mounting one is allowed. */
START_TEST(f68_a_full_tmpfs)
{
    struct ckpt_store s;
    struct ckpt_slices t;
    struct ckpt_version v;
    uint8_t *value = mem_zalloc(200000);
    struct ckpt_entry e = {.key = slice_str("k"), .value = slice_of(value, 200000)};

    ck_assert_ptr_nonnull(value);
    open_place();
    if (mount("levee", place.dir, "tmpfs", 0, "size=512k") != 0) {
        printf("f68_a_full_tmpfs: not allowed to mount (errno %d), nothing tried\n", errno);
        mem_free(value);
        close_place();
        return;
    }
    ckpt_slices_init(&t, 1);
    for (uint32_t i = 0; i < 3; i++) {
        e.group = i;
        ckpt_slices_add(&t, &e);
    }
    ck_assert_int_eq(ckpt_slices_finish(&t, &err), LEVEE_OK);
    struct ckpt_content c = {.to = 1, .tables = &t, .table_count = 1};
    ck_assert_int_eq(ckpt_store_init(&s, place.io, place.format, place.dir), LEVEE_OK);
    for (int again = 0; again < 3; again++) {
        ck_assert_int_eq(ckpt_publish(&s, &c, 0, &v, &err), LEVEE_ENOSPACE);
        ck_assert_uint_eq(count_names(".tmp"), 0);
    }
    ck_assert_int_eq(mount("levee", place.dir, "tmpfs", MS_REMOUNT, "size=4m"), 0);
    ck_assert_int_eq(ckpt_publish(&s, &c, 0, &v, &err), LEVEE_OK);
    ckpt_store_release(&s);
    ckpt_slices_release(&t);
    mem_free(value);
    ck_assert_int_eq(umount(place.dir), 0);
    close_place();
}
END_TEST

static int life_file_limit(struct ckpt_store *s)
{
    struct rlimit limit = {20000, 20000}; /* one that a version passes */

    (void)signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) {
        return LEVEE_EINVALID;
    }
    return live(s);
}

/* Fault 74: RLIMIT_FSIZE in the middle of LMDB's writes. */
START_TEST(f74_a_file_size_limit_is_a_typed_error)
{
    unsigned published;

    open_place();
    int rc = child_life(life_file_limit, &published);
    ck_assert(rc == LEVEE_ENOSPACE || rc == LEVEE_ECKPT_FAILED);
    ck_assert_uint_eq(check_versions(published), published);
    finish();
    close_place();
}
END_TEST

#if !WITH_ASAN
static int life_no_address_space(struct ckpt_store *s)
{
    struct rlimit limit = {(rlim_t)12 << 20, (rlim_t)12 << 20};
    int rc = ckpt_store_list(s, &err);

    if (setrlimit(RLIMIT_AS, &limit) != 0) {
        return LEVEE_EINVALID;
    }
    return rc == LEVEE_OK ? publish_and_report(s, 0) : rc;
}

/* Fault 76: no address space for LMDB's map. */
START_TEST(f76_no_address_space_is_no_memory)
{
    unsigned published;

    open_place();
    ck_assert_int_eq(child_life(life_no_address_space, &published), LEVEE_ENOMEM);
    ck_assert_uint_eq(count_names(".tmp"), 0);
    finish();
    close_place();
}
END_TEST
#endif /* !WITH_ASAN */

static int life_no_descriptors(struct ckpt_store *s)
{
    struct rlimit limit;
    is_ready = true; /* the interposer stays out: it would need descriptors too */
    pattern = NULL;
    int rc = ckpt_store_list(s, &err);
    int low = open("/dev/null", O_RDONLY);

    for (int spare = 0; rc == LEVEE_OK && spare < 8; spare++) {
        limit = (struct rlimit){(rlim_t)low + 1 + (rlim_t)spare, 1024};
        if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
            return LEVEE_EINVALID;
        }
        rc = publish_and_report(s, 0);
        if (rc == LEVEE_OK) {
            return spare > 1 ? LEVEE_OK : LEVEE_EINVALID;
        }
        if (rc != LEVEE_ELIMIT && rc != LEVEE_ECKPT_FAILED) {
            return rc;
        }
        rc = LEVEE_OK;
    }
    return LEVEE_EINVALID;
}

/* Fault 71: descriptors run out at each open of a publication in turn; then there are enough. */
START_TEST(f71_no_descriptors_is_a_typed_error)
{
    unsigned published;

    open_place();
    ck_assert_int_eq(child_life(life_no_descriptors, &published), LEVEE_OK);
    ck_assert_uint_eq(published, 1);
    ck_assert_uint_eq(check_versions(1), 1);
    finish();
    close_place();
}
END_TEST

/* LMDB must not be used across fork and does not notice (L20); we do. */
START_TEST(use_after_fork_is_refused)
{
    struct ckpt_store s;
    struct ckpt_version v;
    int status = 0;

    open_place();
    ck_assert_int_eq(ckpt_store_init(&s, place.io, place.format, place.dir), LEVEE_OK);
    pid_t child = fork();
    if (child == 0) {
        _exit(model_publish(&model, &s, 0, 1, &v, &err) == LEVEE_EFORKED ? 0 : 1);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 0);
    ck_assert_int_eq(model_publish(&model, &s, 0, 1, &v, &err), LEVEE_OK);
    ckpt_store_release(&s);
    close_place();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ckpt_lmdb");
    TCase *tc = tcase_create("lmdb");

    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, f15_kill_at_every_named_point_leaves_whole_versions);
    tcase_add_test(tc, f16_power_loss_at_every_write_and_sync_of_lmdb);
    tcase_add_test(tc, f42_an_error_of_any_lmdb_write_fails_the_publication);
    tcase_add_test(tc, f41_a_failed_sync_is_final);
    tcase_add_test(tc, f68_a_full_disk_in_lmdb_is_retried_by_the_same_life);
    tcase_add_test(tc, f68_a_short_write_on_a_full_disk_is_no_space);
    tcase_add_test(tc, f68_a_full_tmpfs);
    tcase_add_test(tc, f74_a_file_size_limit_is_a_typed_error);
#if !WITH_ASAN /* which needs all the address space there is */
    tcase_add_test(tc, f76_no_address_space_is_no_memory);
#endif
    tcase_add_test(tc, f71_no_descriptors_is_a_typed_error);
    tcase_add_test(tc, use_after_fork_is_refused);
    suite_add_tcase(suite, tc);
    return suite_main(suite);
}
