/*
 * The life of a broker: runs tests/support/kafka/broker and reads what it says.
 *
 * The script is the only one that knows how Kafka is started and ended, so that what a test does
 * can be repeated by hand. Its exit code becomes the kind of failure, its last words the text.
 */
#include "tests/support/broker_internal.h"

#include <errno.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SCRIPT      "tests/support/kafka/broker"
#define EXIT_ABSENT 77
#define ARGS_MAX    64

extern char **environ;

enum broker_code broker_fail(struct broker *b, enum broker_code code, int detail,
                             const char *format, ...)
{
    va_list args;

    b->failure.code = code;
    b->failure.detail = detail;
    va_start(args, format);
    (void)vsnprintf(b->failure.what, sizeof b->failure.what, format, args);
    va_end(args);
    return code;
}

static enum broker_code system_failure(struct broker *b, int number, const char *what)
{
    return broker_fail(b, BROKER_SYSTEM, number, "%s: %s", what, strerror(number));
}

struct arguments {
    const char *list[ARGS_MAX];
    size_t count;
};

static void add(struct arguments *a, const char *text)
{
    MUST(a->count + 1 < ARGS_MAX); /* the last one is NULL */
    a->list[a->count++] = text;
}

static void add_all(struct arguments *a, const char *const *list)
{
    for (; list && *list; list++) {
        add(a, *list);
    }
}

/* Starts the script with both its outputs in one pipe. */
static enum broker_code spawn_script(struct broker *b, struct arguments *a)
{
    posix_spawn_file_actions_t actions;
    int ends[2];

    if (pipe(ends) != 0) {
        return system_failure(b, errno, "pipe");
    }
    (void)posix_spawn_file_actions_init(&actions);
    (void)posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", 0, 0);
    (void)posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    (void)posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
    (void)posix_spawn_file_actions_addclose(&actions, ends[0]);
    (void)posix_spawn_file_actions_addclose(&actions, ends[1]);
    /* execv promises not to write to its arguments; its type is older than const. */
    int rc = posix_spawn(&b->starting, a->list[0], &actions, NULL,
                         (char *const *)(uintptr_t)a->list, environ);
    (void)posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    if (rc != 0) {
        close(ends[0]);
        b->starting = 0;
        return system_failure(b, rc, SCRIPT);
    }
    b->starting_output = ends[0];
    return BROKER_OK;
}

/* Reads until the script has ended; keeps the end of what it said, without the last newline. */
static enum broker_code finish_script(struct broker *b, char *ret_said, size_t size)
{
    size_t n = 0;
    int status = 0;

    for (;;) {
        if (n == size - 1) {
            memmove(ret_said, ret_said + size / 2, n - size / 2);
            n -= size / 2;
        }
        ssize_t got = read(b->starting_output, ret_said + n, size - 1 - n);
        if (got == 0 || (got < 0 && errno != EINTR)) {
            break;
        }
        n += got > 0 ? (size_t)got : 0;
    }
    ret_said[n > 0 && ret_said[n - 1] == '\n' ? n - 1 : n] = 0;
    close(b->starting_output);
    pid_t pid = b->starting;
    b->starting = 0;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR) {
            return system_failure(b, errno, "waitpid");
        }
    }
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (code == EXIT_ABSENT) { /* the last line says it all */
        const char *last = strrchr(ret_said, '\n');
        return broker_fail(b, BROKER_ABSENT, code, "%s", last ? last + 1 : ret_said);
    }
    if (code != 0) {
        return broker_fail(b, BROKER_SCRIPT, code, "%s", ret_said);
    }
    return BROKER_OK;
}

static enum broker_code run_script(struct broker *b, struct arguments *a)
{
    char said[800];
    enum broker_code code = spawn_script(b, a);

    return code ? code : finish_script(b, said, sizeof said);
}

enum broker_code broker_launch(struct broker *b, const char *version, unsigned nodes,
                               const char *const *properties)
{
    struct arguments a = {.count = 0};
    const char *tmp = getenv("TMPDIR");
    char node_count[16], watch[24];

    *b = (struct broker){.nodes = nodes};
#ifdef __SANITIZE_THREAD__
    /* Debian's librdkafka makes its threads by thrd_create, of which TSan learns nothing: the first
     * of them crashes. */
    return broker_fail(b, BROKER_ABSENT, 0, "NO REAL KAFKA under TSan: librdkafka crashes there");
#endif
    (void)snprintf(b->directory, sizeof b->directory, "%s/broker-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(b->directory)) {
        int number = errno;
        b->directory[0] = 0;
        return system_failure(b, number, "a directory for the broker");
    }
    (void)snprintf(node_count, sizeof node_count, "%u", nodes);
    (void)snprintf(watch, sizeof watch, "%ld", (long)getpid());
    const char *const begin[] = {SCRIPT,    "start",    b->directory, "--version", version,
                                 "--nodes", node_count, "--watch",    watch,       NULL};
    add_all(&a, begin);
    add_all(&a, properties);
    return spawn_script(b, &a);
}

enum broker_code broker_await(struct broker *b)
{
    char said[800];

    if (!b->starting) { /* it could not even be launched */
        return b->failure.code;
    }
    enum broker_code code = finish_script(b, said, sizeof said);
    if (code == BROKER_OK) {
        const char *last = strrchr(said, '\n');
        last = last ? last + 1 : said;
        MUST(strlen(last) < sizeof b->address);
        memcpy(b->address, last, strlen(last) + 1);
    } else if (rmdir(b->directory) == 0) { /* nothing was put there: no node was started */
        b->directory[0] = 0;
    }
    return code;
}

enum broker_code broker_start(struct broker *b, const char *version, unsigned nodes,
                              const char *const *properties)
{
    enum broker_code code = broker_launch(b, version, nodes, properties);

    return code ? code : broker_await(b);
}

static void add_node(struct arguments *a, unsigned node, char *buf, size_t size)
{
    if (node != BROKER_ALL) {
        (void)snprintf(buf, size, "%u", node);
        add(a, buf);
    }
}

enum broker_code broker_kill(struct broker *b, int signal, unsigned node)
{
    const char *name = signal == SIGTERM   ? "TERM"
                       : signal == SIGKILL ? "KILL"
                       : signal == SIGSTOP ? "STOP"
                                           : "CONT";
    struct arguments a = {.list = {SCRIPT, "kill", b->directory, name}, .count = 4};
    char number[16];

    MUST(signal == SIGTERM || signal == SIGKILL || signal == SIGSTOP || signal == SIGCONT);
    add_node(&a, node, number, sizeof number);
    return run_script(b, &a);
}

enum broker_code broker_relaunch(struct broker *b, unsigned node, const char *const *properties)
{
    struct arguments a = {.list = {SCRIPT, "restart", b->directory}, .count = 3};
    char number[16];

    add_node(&a, node, number, sizeof number);
    add_all(&a, properties);
    return spawn_script(b, &a);
}

enum broker_code broker_restart(struct broker *b, unsigned node, const char *const *properties)
{
    enum broker_code code = broker_relaunch(b, node, properties);

    return code ? code : broker_await(b);
}

enum broker_code broker_stop(struct broker *b)
{
    struct arguments a = {.list = {SCRIPT, "stop", b->directory, "--remove"}, .count = 4};

    if (b->starting) {
        (void)broker_await(b); /* whatever became of it, it ends now */
    }
    if (!b->directory[0]) {
        return BROKER_OK;
    }
    enum broker_code code = run_script(b, &a);
    if (code == BROKER_OK) {
        b->directory[0] = b->address[0] = 0;
    }
    return code;
}

const char *const broker_versions[BROKER_VERSIONS] = {"4.1", "3.9"};

void broker_start_each(struct broker brokers[BROKER_VERSIONS], const char *const *properties)
{
    for (size_t i = 0; i < BROKER_VERSIONS; i++) {
        (void)broker_launch(&brokers[i], broker_versions[i], 1, properties);
    }
    for (size_t i = 0; i < BROKER_VERSIONS; i++) {
        (void)broker_await(&brokers[i]);
    }
}

void broker_stop_each(struct broker brokers[BROKER_VERSIONS])
{
    for (size_t i = 0; i < BROKER_VERSIONS; i++) {
        (void)broker_stop(&brokers[i]);
    }
}

const char *broker_address(const struct broker *b)
{
    return b->address;
}

bool broker_usable(const struct broker *b)
{
    if (!b->address[0] && b->failure.code == BROKER_ABSENT) {
        suite_skip(b->failure.what);
        return false;
    }
    ck_assert_msg(b->address[0], "%s", b->failure.what);
    return true;
}
