#include "tests/fault/crash_trial.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <check.h>

#include "recovery/recovery.h"

#define ARGS_MAX 48

static const char *scratch(void)
{
    const char *dir = getenv("TMPDIR");

    return dir && *dir ? dir : "/tmp";
}

static const char *child_program(void)
{
    static char path[512];
    const char *build = getenv("BUILD");

    (void)snprintf(path, sizeof path, "%s/tests/fault/crash_child",
                   build && *build ? build : "build/release");
    return path;
}

void trial_map_status(struct trial *t)
{
    int fd = open(t->status_path, O_RDWR | O_CREAT, 0644);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, sizeof *t->status), 0);
    t->status = mmap(NULL, sizeof *t->status, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ck_assert_ptr_ne(t->status, MAP_FAILED);
    close(fd);
}

void trial_open(struct trial *t, uint64_t seed)
{
    sigset_t chld;

    *t = (struct trial){.seed = seed, .fold.seed = seed};
    (void)snprintf(t->root, sizeof t->root, "%s/levee-crash-XXXXXX", scratch());
    ck_assert_ptr_nonnull(mkdtemp(t->root));
    (void)snprintf(t->dir, sizeof t->dir, "%s/state", t->root);
    (void)snprintf(t->out, sizeof t->out, "%s/out", t->root);
    (void)snprintf(t->taken, sizeof t->taken, "%s/taken", t->root);
    (void)snprintf(t->acks, sizeof t->acks, "%s/acks", t->root);
    (void)snprintf(t->status_path, sizeof t->status_path, "%s/status", t->root);
    (void)snprintf(t->log, sizeof t->log, "%s/log", t->root);
    ck_assert_int_eq(mkdir(t->taken, 0755), 0);
    trial_map_status(t);
    /* Waited for with a deadline: blocked, or its arrival could be missed. */
    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    ck_assert_int_eq(sigprocmask(SIG_BLOCK, &chld, NULL), 0);
}

void trial_close(struct trial *t)
{
    char command[400];

    (void)munmap(t->status, sizeof *t->status);
    (void)snprintf(command, sizeof command, "rm -rf '%s'", t->root);
    /* A folder of our own making, without quotes in its name. */
    ck_assert_int_eq(system(command), 0); /* NOLINT(cert-env33-c) */
}

static bool broken(struct trial *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool broken(struct trial *t, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(t->why, sizeof t->why, fmt, ap);
    va_end(ap);
    return false;
}

/* ---- lives ---- */

/* Does not return. */
static void become_child(const struct trial *t, const struct trial_life *life, const char **args)
{
    sigset_t none;
    int log = open(t->log, O_WRONLY | O_CREAT | O_APPEND, 0644);

    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)dup2(log, STDOUT_FILENO);
    (void)dup2(log, STDERR_FILENO);
    close(log);
    if (life->limit_to) {
        struct rlimit r = {.rlim_cur = life->limit_to, .rlim_max = life->limit_to};
        (void)setrlimit(life->limit, &r);
    }
    /* execv promises not to write to its arguments; its type is older than const. */
    if (life->new_pids) {
        const char *wrapped[ARGS_MAX + 4] = {"unshare", "--pid", "--fork", "--kill-child"};
        memcpy(wrapped + 4, args, ARGS_MAX * sizeof *args);
        execvp(wrapped[0], (char *const *)(uintptr_t)wrapped);
    } else {
        execv(args[0], (char *const *)(uintptr_t)args);
    }
    _exit(127);
}

/* An option with a number, unless it is 0. */
static int add_number(const char **args, int n, const char *name, uint64_t number, char text[24])
{
    if (number) {
        (void)snprintf(text, 24, "%" PRIu64, number);
        args[n++] = name;
        args[n++] = text;
    }
    return n;
}

pid_t trial_spawn(struct trial *t, const struct trial_life *life)
{
    char seed[24], records[24], hit[24], refresh[24], timeout[24], ahead[24], rate[24], part[24];
    const char *args[ARGS_MAX] = {child_program(), t->dir, t->out, t->acks,
                                  t->status_path,  seed,   records};
    int n = 7;

    (void)snprintf(seed, sizeof seed, "%" PRIu64, t->seed);
    (void)snprintf(records, sizeof records, "%" PRIu64, life->records);
    (void)snprintf(hit, sizeof hit, "%" PRIu64, life->hit);
    if (life->point) {
        args[n++] = life->stop ? "--stop" : "--point";
        args[n++] = life->point;
        args[n++] = hit;
    }
    if (life->idle) {
        args[n++] = "--idle";
    }
    if (life->forever) {
        args[n++] = "--forever";
    }
    if (life->close_fds) {
        args[n++] = "--close-fds";
    }
    if (t->brokers) {
        args[n++] = "--kafka";
        args[n++] = t->brokers;
        args[n++] = t->topic;
    }
    if (t->also_brokers) {
        args[n++] = "--also";
        args[n++] = t->also_brokers;
        args[n++] = t->also_topic;
    }
    for (int i = 0; i < 4 && t->properties[i]; i++) {
        args[n++] = "--property";
        args[n++] = t->properties[i];
    }
    n = add_number(args, n, "--refresh", life->refresh_ms, refresh);
    n = add_number(args, n, "--timeout", life->timeout_ms, timeout);
    n = add_number(args, n, "--ahead", life->ahead, ahead);
    n = add_number(args, n, "--rate", life->rate, rate);
    (void)add_number(args, n, "--part", t->part_bytes, part);
    __atomic_store_n(&t->status->started, 0, __ATOMIC_SEQ_CST);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        become_child(t, life, args);
    }
    return pid;
}

int trial_wait(struct trial *t, pid_t pid, int timeout_ms)
{
    struct timespec now, end;
    sigset_t chld;
    int status;

    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += timeout_ms / 1000;
    end.tv_nsec += timeout_ms % 1000 * 1000000;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        int64_t left = (end.tv_sec - now.tv_sec) * 1000000000 + end.tv_nsec - now.tv_nsec;
        if (left <= 0) {
            (void)kill(pid, SIGKILL);
            (void)waitpid(pid, &status, 0);
            return TRIAL_TOO_LATE;
        }
        struct timespec wait = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
        (void)sigtimedwait(&chld, NULL, &wait);
    }
    (void)t;
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? TRIAL_KILLED
           : WIFSIGNALED(status)                              ? 1000 + WTERMSIG(status)
                                                              : WEXITSTATUS(status);
}

void trial_wait_stopped(struct trial *t, pid_t pid)
{
    int status = 0;
    pid_t got = waitpid(pid, &status, WUNTRACED);

    ck_assert_msg(got == pid && WIFSTOPPED(status), "it did not stop but end with status %#x: %s",
                  (unsigned)status, trial_said(t));
}

int trial_run(struct trial *t, const struct trial_life *life)
{
    return trial_wait(t, trial_spawn(t, life), TRIAL_PATIENCE_MS);
}

const char *trial_said(const struct trial *t)
{
    static char text[1024];
    FILE *f = fopen(t->log, "r");
    size_t n = 0;

    if (f) {
        if (fseek(f, -(long)(sizeof text - 1), SEEK_END) != 0) {
            rewind(f);
        }
        n = fread(text, 1, sizeof text - 1, f);
        fclose(f);
    }
    text[n] = '\0';
    return text;
}

/* ---- the oracle ---- */

/* The sender's side: what was acknowledged is durable ever after. */
static bool acks_hold(struct trial *t)
{
    FILE *f = fopen(t->acks, "r");
    char word[16];
    uint64_t n, acked = 0, highest = 0;

    while (f && fscanf(f, "%15s %" SCNu64, word, &n) == 2) {
        if (strcmp(word, "resume") == 0 && n < acked) {
            fclose(f);
            return broken(t, "record %" PRIu64 " was acknowledged, a later life knows %" PRIu64,
                          acked, n);
        }
        acked = n > acked ? n : acked;
        highest = acked;
    }
    if (f) {
        fclose(f);
    }
    t->acked = highest;
    t->appended = t->status->appended > t->appended ? t->status->appended : t->appended;
    if (highest > t->appended) {
        return broken(t, "%" PRIu64 " acknowledged, %" PRIu64 " sent", highest, t->appended);
    }
    return true;
}

static bool judge_file(struct trial *t, const char *path, uint64_t id)
{
    static char text[64 * JOB_KEYS];
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(text, 1, sizeof text, f) : 0;

    if (f) {
        fclose(f);
    }
    return job_judge(&t->fold, id, text, n, t->appended, t->why);
}

static int is_batch(const struct dirent *e)
{
    size_t n = strlen(e->d_name);

    return strncmp(e->d_name, "batch-", 6) == 0 && n > 4 && strcmp(e->d_name + n - 4, ".txt") == 0;
}

static bool collect_files(struct trial *t)
{
    struct dirent **names = NULL;
    int n = scandir(t->out, &names, is_batch, alphasort);
    bool fine = true;

    for (int i = 0; i < n; i++) {
        char from[600], to[600];
        (void)snprintf(from, sizeof from, "%s/%s", t->out, names[i]->d_name);
        (void)snprintf(to, sizeof to, "%s/%s", t->taken, names[i]->d_name);
        if (fine && access(to, F_OK) == 0) {
            fine = broken(t, "%s is published a second time", names[i]->d_name);
        }
        fine = fine && judge_file(t, from, strtoull(names[i]->d_name + 6, NULL, 10));
        if (fine && rename(from, to) != 0) {
            fine = broken(t, "cannot move %s: %s", from, strerror(errno));
        }
        free(names[i]);
    }
    free(names);
    return fine;
}

bool trial_fine(struct trial *t)
{
    return acks_hold(t) && (t->collect ? t->collect(t) : collect_files(t));
}

bool trial_finish(struct trial *t, uint64_t more)
{
    if (!trial_fine(t)) {
        return false;
    }
    uint64_t records = t->appended + more;
    int code = trial_run(t, &(struct trial_life){.records = records});
    if (code != 0) {
        return broken(t, "the last life ended with %d: %s", code, trial_said(t));
    }
    if (!trial_fine(t)) {
        return false;
    }
    if (t->fold.records != records) {
        return broken(t, "%" PRIu64 " records sent, %" PRIu64 " counted", records, t->fold.records);
    }
    return true;
}

/* ---- damage and size ---- */

static int is_checkpoint(const struct dirent *e)
{
    size_t n = strlen(e->d_name);

    return n > 5 && strcmp(e->d_name + n - 5, ".ckpt") == 0;
}

/* Where the log ends and the next group would begin: in the segment in use, or, if that is full, in
 * the spare behind it. */
static bool end_of_log(const struct wal_facts *f, const struct wal_segment **ret, uint64_t *ret_at)
{
    for (size_t i = f->segment_count; i-- > 0;) {
        const struct wal_segment *s = &f->segments[i];
        uint64_t groups_end = s->recycled ? s->groups_end : s->size;
        if (s->first_lsn && s->used_offset < groups_end) {
            *ret = s;
            *ret_at = s->used_offset;
            return true;
        }
        if (s->first_lsn) {
            *ret = i + 1 < f->segment_count ? s + 1 : NULL;
            *ret_at = WAL_HEADER_BYTES;
            return *ret != NULL;
        }
    }
    return false;
}

void trial_tear_tail(struct trial *t)
{
    static const char bytes[] = "torn, torn, torn";
    struct iovec iov = {(void *)(uintptr_t)bytes, 16};
    struct levee_error err = {0};
    struct rec_dir_options o = {.path = t->dir, .existing_only = true};
    struct rec_dir dir = {0};
    struct wal_facts facts = {0};
    const struct wal_segment *s = NULL;
    struct io_file *f = NULL;
    struct io *io = NULL;
    char path[IO_PATH_MAX];
    uint64_t at = 0;

    ck_assert_int_eq(io_posix_new(&io, &err), LEVEE_OK);
    ck_assert_int_eq(rec_dir_open(io, &o, &dir, &err), LEVEE_OK);
    ck_assert_int_eq(wal_scan(io, dir.wal, &dir.context, 0, &facts, &err), LEVEE_OK);
    ck_assert_msg(end_of_log(&facts, &s, &at), "no segment with data in %s", t->dir);
    ck_assert_int_eq(io_path(path, dir.wal, s->name, &err), LEVEE_OK);
    ck_assert_int_eq(io->ops->open(io, path, IO_WRITE, &f, &err), LEVEE_OK);
    ck_assert_int_eq(io->ops->pwritev(f, &iov, 1, at, &err), LEVEE_OK);
    io->ops->close(f);
    wal_facts_release(&facts);
    rec_dir_close(&dir);
    io_free(io);
}

const char *trial_newest_checkpoint(const struct trial *t)
{
    static char path[600];
    struct dirent **names = NULL;

    (void)snprintf(path, sizeof path, "%s/checkpoint", t->dir);
    int n = scandir(path, &names, is_checkpoint, alphasort);
    if (n > 0) {
        (void)snprintf(path, sizeof path, "%s/checkpoint/%s", t->dir, names[n - 1]->d_name);
    }
    for (int i = 0; i < n; i++) {
        free(names[i]);
    }
    free(names);
    return n > 0 ? path : NULL;
}

bool trial_flip_checkpoint(struct trial *t, uint64_t offset)
{
    const char *path = trial_newest_checkpoint(t);
    uint8_t byte;

    if (!path) {
        return false;
    }
    int fd = open(path, O_RDWR);
    ck_assert_int_eq(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= 1;
    ck_assert_int_eq(pwrite(fd, &byte, 1, (off_t)offset), 1);
    close(fd);
    return true;
}

static void add_folder(const char *path, size_t *files, uint64_t *bytes)
{
    DIR *d = opendir(path);

    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        char name[1024];
        struct stat st;
        if (e->d_name[0] == '.') {
            continue;
        }
        (void)snprintf(name, sizeof name, "%s/%s", path, e->d_name);
        if (stat(name, &st) != 0) {
            continue;
        }
        if (S_ISDIR(st.st_mode)) {
            add_folder(name, files, bytes);
        } else {
            ++*files;
            *bytes += (uint64_t)st.st_size;
        }
    }
    if (d) {
        closedir(d);
    }
}

void trial_size(const struct trial *t, size_t *ret_files, uint64_t *ret_bytes)
{
    *ret_files = 0;
    *ret_bytes = 0;
    add_folder(t->dir, ret_files, ret_bytes);
}
