/*
 * The interposer that stands in for the simulated disk under LMDB, first with plain files whose
 * outcome is known, then with LMDB itself: the facts about it that the checkpoint code relies on
 * (faults.md 5.1: L9, L10, L11) and that a durable commit survives the loss of everything unsynced.
 * Power loss, in a child that the interposer kills; its definitions are compiled into this program
 * and so come before the C library's.
 */
#include "tests/support/interpose/interpose.c"

#include <lmdb.h>
#include <sys/wait.h>

#include "tests/support/suite.h"

static char dir[64];
static char path[96];

static void setup(void)
{
    snprintf(dir, sizeof dir, "/tmp/levee-interpose-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/data", dir);
    ck_assert_int_eq(setenv("LEVEE_INTERPOSE_MATCH", path, 1), 0);
}

static void teardown(void)
{
    char other[112];

    (void)unlink(path);
    snprintf(other, sizeof other, "%s-lock", path);
    (void)unlink(other);
    snprintf(other, sizeof other, "%s/counts", dir);
    (void)unlink(other);
    ck_assert_int_eq(rmdir(dir), 0);
}

static void set(const char *what, const char *value)
{
    ck_assert_int_eq(setenv(what, value, 1), 0);
}

/* Runs life in a child. Returns true if it was killed, as by a power loss; it must not fail. */
static bool live(void (*life)(void))
{
    int status = 0;
    pid_t child = fork();

    if (child == 0) {
        life();
        exit(0);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status)) {
        ck_assert_int_eq(WTERMSIG(status), SIGKILL);
        return true;
    }
    ck_assert_int_eq(WEXITSTATUS(status), 0);
    return false;
}

/* In a child: a failed check there must end it, not jump into the test's frame. */
static void must(bool holds)
{
    if (!holds) {
        _exit(1);
    }
}

static void put(int fd, char letter, int first, int count)
{
    uint8_t bytes[16 * SECTOR];

    memset(bytes, letter, sizeof bytes);
    must(pwrite(fd, bytes, (size_t)count * SECTOR, (off_t)first * SECTOR) == count * SECTOR);
}

/* One letter a sector, of the file as it is now. */
static const char *picture(void)
{
    static char text[64];
    uint8_t bytes[32 * SECTOR];
    int fd = open(path, O_RDONLY);

    ck_assert_int_ge(fd, 0);
    ssize_t n = read(fd, bytes, sizeof bytes);
    ck_assert_int_ge(n, 0);
    ck_assert_int_eq(n % SECTOR, 0);
    ck_assert_int_eq(close(fd), 0);
    for (ssize_t s = 0; s < n / SECTOR; s++) {
        text[s] = bytes[s * SECTOR] == 0 ? '.' : (char)bytes[s * SECTOR];
        for (int i = 1; i < SECTOR; i++) {
            ck_assert_int_eq(bytes[s * SECTOR + i], bytes[s * SECTOR]);
        }
    }
    text[n / SECTOR] = '\0';
    return text;
}

static int open_data(int flags)
{
    int fd = open(path, O_RDWR | O_CREAT | flags, 0600);

    must(fd >= 0);
    return fd;
}

/* ---- power loss ---- */

static void life_unsynced(void)
{
    int fd = open_data(0);
    int direct = open_data(O_DSYNC);

    put(fd, 'a', 0, 4);
    must(fdatasync(fd) == 0);
    put(fd, 'b', 1, 4);     /* lost, with the size */
    put(direct, 'c', 2, 1); /* safe: the descriptor syncs */
    levee_interpose_power_loss();
}

START_TEST(test_power_loss_takes_what_was_not_synced)
{
    ck_assert(live(life_unsynced));
    /* O_DSYNC also made the size that covers its bytes durable, and that is the whole size. */
    ck_assert_str_eq(picture(), "aaca.");
}
END_TEST

static void life_sizes(void)
{
    int fd = open_data(0);

    put(fd, 'a', 0, 4);
    must(fsync(fd) == 0);
    must(ftruncate(fd, SECTOR) == 0);
    put(fd, 'b', 1, 1);
    levee_interpose_power_loss();
}

START_TEST(test_power_loss_takes_a_truncation_back)
{
    ck_assert(live(life_sizes));
    ck_assert_str_eq(picture(), "aaaa");
}
END_TEST

/* Fact 8: the failed sync saved nothing and the next one does not either, unless a sector was
 * rewritten. */
static void life_failed_sync(void)
{
    int fd = open_data(0);

    put(fd, 'a', 0, 4);
    must(fdatasync(fd) == 0);
    put(fd, 'b', 0, 3);
    must(fdatasync(fd) == -1 && errno == EIO);
    put(fd, 'c', 1, 1);
    must(fdatasync(fd) == 0);
    levee_interpose_power_loss();
}

START_TEST(test_a_failed_sync_is_final)
{
    set("LEVEE_INTERPOSE_FAIL", "fdatasync:2:5");
    set("LEVEE_INTERPOSE_KEEP", "1000"); /* even a kind disk has not got them */
    ck_assert(live(life_failed_sync));
    ck_assert_str_eq(picture(), "acaa");
}
END_TEST

static void life_kept(void)
{
    int fd = open_data(0);

    put(fd, 'a', 0, 16);
    must(fdatasync(fd) == 0);
    put(fd, 'b', 0, 16);
}

START_TEST(test_kept_sectors_follow_the_seed)
{
    char seed[16];
    char first[64];
    int mixed = 0;

    set("LEVEE_INTERPOSE_POWER", "exit");
    set("LEVEE_INTERPOSE_KEEP", "500");
    for (int i = 0; i < 5; i++) {
        snprintf(seed, sizeof seed, "%d", i);
        set("LEVEE_INTERPOSE_SEED", seed);
        ck_assert(live(life_kept));
        snprintf(first, sizeof first, "%s", picture());
        ck_assert_uint_eq(strlen(first), 16);
        ck_assert_uint_eq(strspn(first, "ab"), 16);
        mixed += strchr(first, 'a') != NULL && strchr(first, 'b') != NULL;
        ck_assert(live(life_kept));
        ck_assert_str_eq(picture(), first);
    }
    ck_assert_int_eq(mixed, 5);
}
END_TEST

/* ---- rules and counts ---- */

static void life_rules(void)
{
    uint8_t bytes[1000] = {'x'};
    struct iovec iov[2] = {{bytes, 600}, {bytes, 400}};
    int fd = open_data(0);

    must(write(fd, bytes, 1000) == 1000);
    must(pwritev(fd, iov, 2, 0) == 700); /* cut short, … */
    must(pwritev(fd, iov, 2, 700) == -1 && errno == ENOSPC);
    must(pwritev(fd, iov, 2, 700) == 1000); /* … failed once, well again */
    must(fsync(fd) == 0);
    must(fdatasync(fd) == -1 && errno == EIO); /* the second of any kind, and all after it */
    must(fsync(fd) == -1 && errno == EIO);
    void *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    must(map != MAP_FAILED && msync(map, 4096, MS_SYNC) == -1 && errno == EIO);
    must(ftruncate(fd, 0) == 0);
}

START_TEST(test_rules_and_counts)
{
    char counts_path[96];
    char text[512] = {0};

    snprintf(counts_path, sizeof counts_path, "%s/counts", dir);
    set("LEVEE_INTERPOSE_COUNTS", counts_path);
    set("LEVEE_INTERPOSE_FAIL", "pwritev:1:28:700,anysync:2+:5");
    ck_assert(!live(life_rules));
    int fd = open(counts_path, O_RDONLY);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_gt(read(fd, text, sizeof text - 1), 0);
    ck_assert_int_eq(close(fd), 0);
    ck_assert_str_eq(text, "write 1\nwritev 0\npwrite 0\npwritev 3\nftruncate 1\nfsync 2\n"
                           "fdatasync 1\nmsync 1\nanywrite 5\nanysync 4\n");
}
END_TEST

static void life_other_file(void)
{
    char other[112];

    snprintf(other, sizeof other, "%s-lock", path);
    int fd = open(other, O_RDWR | O_CREAT, 0600);
    must(fd >= 0 && write(fd, "x", 1) == 1 && fsync(fd) == 0);
}

START_TEST(test_other_files_are_left_alone)
{
    set("LEVEE_INTERPOSE_FAIL", "anywrite:1+:28,anysync:1+:5");
    ck_assert(!live(life_other_file));
}
END_TEST

static void life_nonsense(void)
{
    (void)fsync(1); /* the first call reads the settings */
}

START_TEST(test_a_setting_with_an_error_stops_the_program)
{
    set("LEVEE_INTERPOSE_FAIL", "fdatasink:1:5");
    life_nonsense();
}
END_TEST

/* ---- LMDB ---- */

static MDB_env *open_env(unsigned flags)
{
    MDB_env *env = NULL;

    must(mdb_env_create(&env) == 0);
    must(mdb_env_set_mapsize(env, 1 << 20) == 0);
    must(mdb_env_open(env, path, MDB_NOSUBDIR | flags, 0600) == 0);
    return env;
}

static int put_value(MDB_env *env, const char *key, const char *value)
{
    MDB_txn *txn = NULL;
    MDB_dbi dbi;
    MDB_val k = {strlen(key), (void *)(uintptr_t)key};
    MDB_val v = {strlen(value), (void *)(uintptr_t)value};
    int rc = mdb_txn_begin(env, NULL, 0, &txn);

    if (rc != 0) {
        return rc;
    }
    must(mdb_dbi_open(txn, NULL, 0, &dbi) == 0);
    must(mdb_put(txn, dbi, &k, &v, 0) == 0);
    return mdb_txn_commit(txn);
}

static bool has_value(const char *key)
{
    MDB_txn *txn = NULL;
    MDB_dbi dbi;
    MDB_val k = {strlen(key), (void *)(uintptr_t)key};
    MDB_val v;
    MDB_env *env = open_env(0);

    must(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn) == 0);
    must(mdb_dbi_open(txn, NULL, 0, &dbi) == 0);
    bool found = mdb_get(txn, dbi, &k, &v) == 0;
    mdb_txn_abort(txn);
    mdb_env_close(env);
    return found;
}

/* Opening an environment twice is forbidden, so the look is a life of its own. */
static void life_sees_a_only(void)
{
    must(has_value("a"));
    must(!has_value("b"));
}

static void life_commits(void)
{
    MDB_env *env = open_env(0);

    must(put_value(env, "a", "1") == 0);
    must(mdb_env_set_flags(env, MDB_NOSYNC, 1) == 0);
    must(put_value(env, "b", "2") == 0);
    levee_interpose_power_loss();
}

START_TEST(test_lmdb_keeps_a_durable_commit_and_loses_an_unsynced_one)
{
    ck_assert(live(life_commits));
    ck_assert(!live(life_sees_a_only));
}
END_TEST

/* Fault 41, L10: LMDB reports a failed sync once and goes on; nothing of that commit is to be
 * trusted. */
static void life_sync_fails(void)
{
    MDB_env *env = open_env(0);

    must(put_value(env, "a", "1") == 0);
    must(put_value(env, "b", "2") == EIO);
    must(put_value(env, "c", "3") == 0);
    mdb_env_close(env);
}

START_TEST(test_lmdb_goes_on_after_a_failed_sync)
{
    set("LEVEE_INTERPOSE_FAIL", "fdatasync:2:5");
    ck_assert(!live(life_sync_fails));
    ck_assert_int_eq(unsetenv("LEVEE_INTERPOSE_FAIL"), 0);
    ck_assert(!live(life_sees_a_only));
}
END_TEST

/* Fault 68, L9: a disk that fills up within a write is EIO to LMDB; the environment stays usable.
 */
static void life_full(void)
{
    MDB_env *env = open_env(0);
    char value[3000];

    memset(value, 'v', sizeof value);
    value[sizeof value - 1] = '\0';
    must(put_value(env, "a", "1") == 0);
    must(put_value(env, "b", value) == EIO);    /* a short write, */
    must(put_value(env, "b", value) == ENOSPC); /* and one that fails; then there is room */
    must(put_value(env, "a", "2") == 0);
    mdb_env_close(env);
}

static uint64_t *shared; /* one number that a life reports to its test */

static void life_count(void)
{
    MDB_env *env = open_env(0);

    must(put_value(env, "a", "1") == 0);
    shared[0] = counts[CALL_ANYWRITE];
    mdb_env_close(env);
}

START_TEST(test_lmdb_calls_a_short_write_an_io_error)
{
    char rule[64];

    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(shared, MAP_FAILED);
    ck_assert(!live(life_count));
    uint64_t writes = shared[0]; /* of opening and of one commit */
    ck_assert_uint_gt(writes, 0);
    ck_assert_int_eq(unlink(path), 0);
    snprintf(rule, sizeof rule, "anywrite:%llu:28:100", (unsigned long long)writes + 1);
    set("LEVEE_INTERPOSE_FAIL", rule);
    ck_assert(!live(life_full));
    ck_assert_int_eq(unsetenv("LEVEE_INTERPOSE_FAIL"), 0);
    ck_assert(!live(life_sees_a_only));
}
END_TEST

/* Faults 8 and 9: the power fails at each write and sync of a commit, with every mixture of
 * survivors: the environment opens and holds the commit before; the one in flight is there whole or
 * not at all. */
static void life_two_commits(void)
{
    MDB_env *env = open_env(0);

    must(put_value(env, "a", "1") == 0);
    must(put_value(env, "b", "2") == 0);
    mdb_env_close(env);
}

static void life_sees_a(void)
{
    must(has_value("a"));
    shared[0] += has_value("b");
}

START_TEST(test_lmdb_commits_are_atomic_at_every_step)
{
    static const char *const kinds[] = {"anywrite", "anysync"};
    char rule[64];
    char seed[16];
    int losses = 0;

    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(shared, MAP_FAILED);
    ck_assert(!live(life_count));
    uint64_t first = shared[0]; /* the writes of opening and of the first commit */
    shared[0] = 0;
    set("LEVEE_INTERPOSE_KEEP", "500");
    for (int k = 0; k < 2; k++) {
        for (uint64_t n = k == 0 ? first + 1 : 2;; n++) {
            bool power_failed = false;
            for (int i = 0; i < 4; i++) {
                snprintf(rule, sizeof rule, "%s:%llu", kinds[k], (unsigned long long)n);
                snprintf(seed, sizeof seed, "%d", i);
                set("LEVEE_INTERPOSE_POWER", rule);
                set("LEVEE_INTERPOSE_SEED", seed);
                (void)unlink(path);
                power_failed = live(life_two_commits);
                ck_assert_int_eq(unsetenv("LEVEE_INTERPOSE_POWER"), 0);
                ck_assert(!live(life_sees_a));
                losses += power_failed;
            }
            if (!power_failed) {
                break; /* there is no n-th */
            }
        }
    }
    ck_assert_int_ge(losses, 8);
    ck_assert_uint_gt(shared[0], 0); /* the last lives, which no power loss ended */
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("io_interpose");
    TCase *plain = tcase_create("plain files");
    TCase *lmdb = tcase_create("lmdb");

    tcase_add_checked_fixture(plain, setup, teardown);
    tcase_add_test(plain, test_power_loss_takes_what_was_not_synced);
    tcase_add_test(plain, test_power_loss_takes_a_truncation_back);
    tcase_add_test(plain, test_a_failed_sync_is_final);
    tcase_add_test(plain, test_kept_sectors_follow_the_seed);
    tcase_add_test(plain, test_rules_and_counts);
    tcase_add_test(plain, test_other_files_are_left_alone);
    suite_add_tcase(suite, plain);
    TCase *settings = tcase_create("settings");
    tcase_add_test_raise_signal(settings, test_a_setting_with_an_error_stops_the_program, SIGABRT);
    suite_add_tcase(suite, settings);
    tcase_add_checked_fixture(lmdb, setup, teardown);
    tcase_set_timeout(lmdb, 60);
    tcase_add_test(lmdb, test_lmdb_keeps_a_durable_commit_and_loses_an_unsynced_one);
    tcase_add_test(lmdb, test_lmdb_goes_on_after_a_failed_sync);
    tcase_add_test(lmdb, test_lmdb_calls_a_short_write_an_io_error);
    tcase_add_test(lmdb, test_lmdb_commits_are_atomic_at_every_step);
    suite_add_tcase(suite, lmdb);
    return suite_main(suite);
}
