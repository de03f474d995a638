/*
 * Limits, other processes, forks and closed descriptors → typed errors, and nothing lost.
 *
 * Goal: what the machine around a context may do to it (faults 71-76, 113-118) ends in an answer,
 * not in a crash. Method: real processes (crash_child.c) under real limits; then a life without,
 * judged by the oracle. Loss: process death at most; a limit takes nothing back that was written.
 */
#include "levee/testing.h"
#include "tests/fault/crash_trial.h"
#include "tests/fault/lab.h"
#include "tests/fault/numbered.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

static struct trial trial;

static void open_with_history(uint64_t seed)
{
    trial_open(&trial, seed);
    int code = trial_run(
        &trial, &(struct trial_life){.point = "BATCH_AFTER_DONE", .hit = 9, .forever = true});
    ck_assert_msg(code == TRIAL_KILLED, "%d: %s", code, trial_said(&trial));
    ck_assert_msg(trial_fine(&trial), "%s", trial.why);
}

static void finish(void)
{
    ck_assert_msg(trial_finish(&trial, 24), "%s", trial.why);
    trial_close(&trial);
}

/* levee_print_error's exit codes: an answer, not a signal, not an endless wait. */
static bool is_answer(int code)
{
    return code >= 0 && code <= 5;
}

/* One life under a limit: it ends, or it says what it waits for and is killed then. Returns whether
 * it was refused or stopped. */
static bool live_under(int limit, uint64_t to)
{
    uint64_t records = trial.appended + 600;
    pid_t pid = trial_spawn(
        &trial, &(struct trial_life){.records = records, .limit = limit, .limit_to = to});
    int code = trial_wait(&trial, pid, 2500);
    const char *said = trial_said(&trial);
    bool waits = code == TRIAL_TOO_LATE && strstr(said, "waits") != NULL;

    ck_assert_msg(is_answer(code) || waits, "limit %d at %llu: ended with %d: %s", limit,
                  (unsigned long long)to, code, said);
    ck_assert_msg(trial_fine(&trial), "limit %d at %llu: %s", limit, (unsigned long long)to,
                  trial.why);
    return code != 0;
}

START_TEST(f71_too_few_descriptors_are_a_typed_error)
{
    unsigned refused = 0, trials = 0;

    open_with_history(71);
    for (uint64_t fds = 6; fds <= 40; fds += 2, trials++) {
        refused += live_under(RLIMIT_NOFILE, fds);
    }
    ck_assert_uint_gt(refused, 0);
    ck_assert_uint_lt(refused, trials);
    finish();
    numbered_trials("f71_too_few_descriptors_are_a_typed_error", trials);
}
END_TEST

START_TEST(f74_a_limit_on_file_size_is_a_typed_error)
{
    static const uint64_t sizes[] = {4096, 8192, 12288, 20480, 40000, 65535, 65536, 70000, 200000};
    unsigned refused = 0;

    open_with_history(74);
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        refused += live_under(RLIMIT_FSIZE, sizes[i]);
    }
    ck_assert_uint_gt(refused, 0);
    finish();
    numbered_trials("f74_a_limit_on_file_size_is_a_typed_error", ARRAY_LEN(sizes));
}
END_TEST

/* Root is never short of processes: threads are denied through the address space their stacks
 * need. */
START_TEST(f75_threads_that_cannot_start_leave_the_state_as_it_was)
{
    unsigned refused = 0, trials = 0;

    if (SANITIZED) {
        return; /* a sanitizer needs the whole address space for itself */
    }
    open_with_history(75);
    for (uint64_t mib = 16; mib <= 96; mib += 20, trials++) {
        refused += live_under(RLIMIT_AS, mib << 20);
    }
    ck_assert_uint_gt(refused, 0);
    finish();
    numbered_trials("f75_threads_that_cannot_start_leave_the_state_as_it_was", trials);
}
END_TEST

START_TEST(f76_too_little_address_space_is_a_typed_error)
{
    unsigned trials = 0;

    if (SANITIZED) {
        return;
    }
    open_with_history(76);
    for (uint64_t mib = 120; mib <= 960; mib += 280, trials++) {
        (void)live_under(RLIMIT_AS, (mib << 20) + 4096 * mib);
    }
    finish();
    numbered_trials("f76_too_little_address_space_is_a_typed_error", trials);
}
END_TEST

/* ---- 73: what the kernel's out-of-memory killer does ---- */

START_TEST(f73_a_kill_without_a_named_point_loses_nothing)
{
    struct timespec look = {.tv_nsec = 1000000};

    open_with_history(73);
    for (int i = 0; i < 10; i++) {
        uint64_t before = trial.status->appended;
        pid_t pid = trial_spawn(&trial, &(struct trial_life){.forever = true});
        while (__atomic_load_n(&trial.status->appended, __ATOMIC_SEQ_CST) < before + 30) {
            (void)nanosleep(&look, NULL);
        }
        ck_assert_int_eq(kill(pid, SIGKILL), 0);
        ck_assert_int_eq(trial_wait(&trial, pid, TRIAL_PATIENCE_MS), TRIAL_KILLED);
        ck_assert_msg(trial_fine(&trial), "%s", trial.why);
    }
    finish();
    numbered_trials("f73_a_kill_without_a_named_point_loses_nothing", 10);
}
END_TEST

/* ---- 114: descriptors ---- */

START_TEST(f114_a_host_that_closes_our_descriptors_is_told)
{
    open_with_history(114);
    int code = trial_run(&trial, &(struct trial_life){.forever = true, .close_fds = true});
    ck_assert_msg(code > 0 && is_answer(code), "ended with %d: %s", code, trial_said(&trial));
    ck_assert_msg(trial_fine(&trial), "%s", trial.why);
    finish();
}
END_TEST

/* ---- 115, 117: two processes ---- */

static void second_process_is_refused(bool new_pids)
{
    struct timespec look = {.tv_nsec = 1000000};
    struct trial second = trial;
    char pid_text[24];

    pid_t pid = trial_spawn(&trial, &(struct trial_life){.forever = true});
    while (__atomic_load_n(&trial.status->started, __ATOMIC_SEQ_CST) == 0) {
        (void)nanosleep(&look, NULL);
    }
    /* A status, acks and log of its own. */
    (void)snprintf(second.status_path, sizeof second.status_path, "%s/status2", trial.root);
    (void)snprintf(second.acks, sizeof second.acks, "%s/acks2", trial.root);
    (void)snprintf(second.log, sizeof second.log, "%s/log2", trial.root);
    int code = trial_run(&second, &(struct trial_life){.records = 10, .new_pids = new_pids});
    const char *said = trial_said(&second);
    ck_assert_msg(code == 2, "the second process ended with %d: %s", code, said);
    ck_assert_ptr_nonnull(strstr(said, "DIR_BUSY"));
    (void)snprintf(pid_text, sizeof pid_text, "%d", (int)pid);
    ck_assert_msg(strstr(said, pid_text) != NULL, "does not name pid %s: %s", pid_text, said);
    ck_assert_int_eq(kill(pid, SIGKILL), 0);
    ck_assert_int_eq(trial_wait(&trial, pid, TRIAL_PATIENCE_MS), TRIAL_KILLED);
    finish();
}

START_TEST(f115_a_second_process_is_refused_with_the_holders_pid)
{
    open_with_history(115);
    second_process_is_refused(false);
}
END_TEST

START_TEST(f117_a_process_of_another_pid_namespace_is_refused)
{
    static const char probe[] = "unshare --pid --fork true 2>/dev/null";
    int denied = system(probe); /* NOLINT(cert-env33-c) */

    if (denied != 0) {
        printf("no right to make a pid namespace here: not tried\n");
        return;
    }
    open_with_history(117);
    second_process_is_refused(true);
}
END_TEST

/* ---- 65: the lock file ---- */

START_TEST(f65_a_lock_file_full_of_garbage_is_no_obstacle)
{
    char path[400], garbage[5000];

    open_with_history(65);
    (void)snprintf(path, sizeof path, "%s/LOCK", trial.dir);
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    memset(garbage, 0xee, sizeof garbage);
    ck_assert_uint_eq(fwrite(garbage, 1, sizeof garbage, f), sizeof garbage);
    ck_assert_int_eq(fclose(f), 0);
    finish();
}
END_TEST

/* ---- 113: fork ---- */

static levee_stream *queue;

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    (void)arg;
    queue = levee_queue_source(ctx, "q", 1);
    (void)levee_print(levee_count(queue), 0);
    return levee_context_status(ctx, err);
}

/* The exit code of the child: 0, or the number of the call that did not refuse. */
static int use_in_child(levee_context *ctx)
{
    struct levee_record r = {.value = levee_text("x")};
    struct levee_error err;

    if (levee_queue_push(queue, &r, 1, 0, &err) != LEVEE_EFORKED) {
        return 1;
    }
    if (levee_stop(ctx, &err) != LEVEE_EFORKED) {
        return 2;
    }
    if (levee_drain(ctx, 0, &err) != LEVEE_EFORKED) {
        return 3;
    }
    if (levee_await_for(ctx, 1, &err) != LEVEE_EFORKED) {
        return 4;
    }
    return levee_start(ctx, &err) == LEVEE_EFORKED ? 0 : 5;
}

START_TEST(f113_a_forked_child_cannot_use_the_context)
{
    char dir[256];
    const char *tmp = getenv("TMPDIR");
    levee_context *ctx = NULL;
    struct levee_error err = {0};
    int status;

    (void)snprintf(dir, sizeof dir, "%s/levee-fork-XXXXXX", tmp ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    struct levee_options o = {.directory = dir, .batch_interval_ms = 5};
    ck_assert_int_eq(levee_get_or_create(&ctx, &o, build, NULL, &err), LEVEE_OK);
    ck_assert_int_eq(levee_start(ctx, &err), LEVEE_OK);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        _exit(use_in_child(ctx));
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 0);
    struct levee_record r = {.value = levee_text("x")};
    ck_assert_int_eq(levee_queue_push(queue, &r, 1, 0, &err), LEVEE_OK);
    ck_assert_int_eq(levee_drain(ctx, 0, &err), LEVEE_OK);
    ck_assert_int_eq(levee_await(ctx, &err), LEVEE_OK);
    levee_free(ctx);
    char command[300];
    (void)snprintf(command, sizeof command, "rm -rf '%s'", dir);
    ck_assert_int_eq(system(command), 0); /* NOLINT(cert-env33-c): a folder of our own */
}
END_TEST

/* ---- 116: the same process twice ---- */

START_TEST(f116_the_same_process_is_refused_a_second_context)
{
    struct lab lab;
    levee_context *again = NULL;

    lab_open(&lab, 116);
    lab_must_start(&lab);
    lab_send(&lab, 12);
    ck_assert_int_eq(levee_get_or_create(&again, &lab.options, build, NULL, &lab.err),
                     LEVEE_EDIR_BUSY);
    ck_assert_ptr_null(again);
    ck_assert(lab_settle(&lab));
    lab_must_finish(&lab);
    lab_close(&lab);
}
END_TEST

/* ---- 118: file systems ---- */

static const char *fake_type;

static int fake_fs_type(struct io *io, const char *path, const char **ret, struct levee_error *err)
{
    (void)io;
    (void)path;
    (void)err;
    *ret = fake_type;
    return LEVEE_OK;
}

START_TEST(f118_a_remote_file_system_is_refused_and_one_in_memory_warned_about)
{
    static const char *const remote[] = {"nfs", "cifs", "9p", "fuse"};
    struct lab lab;
    struct io_ops ops;

    for (size_t i = 0; i < ARRAY_LEN(remote); i++) {
        lab_open(&lab, 118 + i);
        ops = *lab.io->ops;
        ops.fs_type = fake_fs_type;
        lab.io->ops = &ops;
        fake_type = remote[i];
        int code = lab_start(&lab);
        ck_assert_msg(code == LEVEE_EDIR_FS || i >= 2, "%s: %s", remote[i], levee_error_name(code));
        if (code == LEVEE_EDIR_FS) {
            ck_assert_ptr_nonnull(
                strstr(lab.err.found[0] ? lab.err.found : lab.err.what, remote[i]));
        }
        fake_type = "tmpfs";
        lab.said[0] = '\0';
        if (code == LEVEE_EDIR_FS) {
            lab_must_finish(&lab);
        } else {
            lab_kill(&lab);
        }
        lab_close(&lab);
    }
}
END_TEST

/* ---- 120: time travel ---- */

struct saved {
    char path[IO_PATH_MAX];
    struct buf bytes;
} saved[64];
static size_t saved_count;

static void save_folder(struct lab *lab, const char *folder)
{
    struct io_list list = {0};

    ck_assert_int_eq(lab->io->ops->list(lab->io, folder, &list, &lab->err), LEVEE_OK);
    for (size_t i = 0; i < list.count; i++) {
        struct saved *s = &saved[saved_count];
        ck_assert_int_eq(io_path(s->path, folder, list.items[i].name, NULL), LEVEE_OK);
        if (io_read_file(lab->io, s->path, SIZE_MAX / 4, &s->bytes, NULL) == LEVEE_OK) {
            saved_count++;
            ck_assert_uint_lt(saved_count, ARRAY_LEN(saved));
        }
    }
    io_list_free(&list);
}

static void empty_folder(struct lab *lab, const char *folder)
{
    while (lab_file_count(lab, folder, ".seg") + lab_file_count(lab, folder, ".ckpt") > 0) {
        const char *suffix = lab_file_count(lab, folder, ".seg") ? ".seg" : ".ckpt";
        lab_remove(lab, lab_file(lab, folder, suffix, 0));
    }
}

START_TEST(f120_an_older_copy_of_the_directory_is_refused_by_its_sink)
{
    struct lab lab;

    lab_open(&lab, 120);
    lab_history(&lab, 60, true, true);
    save_folder(&lab, LAB_WAL);
    save_folder(&lab, LAB_CKPT);
    lab_must_start(&lab);
    lab_send(&lab, 60);
    ck_assert(lab_settle(&lab));
    lab_kill(&lab);
    empty_folder(&lab, LAB_WAL);
    empty_folder(&lab, LAB_CKPT);
    for (size_t i = 0; i < saved_count; i++) {
        struct io_file *f;
        ck_assert_int_eq(
            lab.io->ops->open(lab.io, saved[i].path, IO_WRITE | IO_CREATE, &f, &lab.err), LEVEE_OK);
        struct iovec v = {saved[i].bytes.data, saved[i].bytes.len};
        ck_assert_int_eq(lab.io->ops->pwritev(f, &v, 1, 0, &lab.err), LEVEE_OK);
        ck_assert_int_eq(lab.io->ops->sync(f, &lab.err), LEVEE_OK);
        lab.io->ops->close(f);
        buf_release(&saved[i].bytes);
    }
    lab_must_refuse(&lab, LEVEE_ESINK_AHEAD, NULL);
    lab_close(&lab);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        f65_a_lock_file_full_of_garbage_is_no_obstacle,
        f71_too_few_descriptors_are_a_typed_error,
        f73_a_kill_without_a_named_point_loses_nothing,
        f74_a_limit_on_file_size_is_a_typed_error,
        f75_threads_that_cannot_start_leave_the_state_as_it_was,
        f76_too_little_address_space_is_a_typed_error,
        f113_a_forked_child_cannot_use_the_context,
        f114_a_host_that_closes_our_descriptors_is_told,
        f115_a_second_process_is_refused_with_the_holders_pid,
        f116_the_same_process_is_refused_a_second_context,
        f117_a_process_of_another_pid_namespace_is_refused,
        f118_a_remote_file_system_is_refused_and_one_in_memory_warned_about,
        f120_an_older_copy_of_the_directory_is_refused_by_its_sink,
    };
    Suite *s = suite_create("hostile surroundings");

    for (size_t i = 0; i < ARRAY_LEN(tests); i++) {
        numbered_add(s, tests[i], 120);
    }
    return suite_main(s);
}
