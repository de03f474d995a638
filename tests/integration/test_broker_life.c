/*
 * The life of the brokers of tests/support/broker.h: nothing of one outlives its stop or the
 * process that it belongs to (process death), another node leads when one is killed, and a machine
 * that cannot have a broker says so.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/broker.h"

#define LEN(array) (sizeof(array) / sizeof *(array))
#define FOREVER_MS 60000

/* ---- nodes ---- */

/* The committed values are 1 to n, in order. */
static void must_count_to(struct broker *b, const char *topic, size_t n)
{
    struct broker_log log;
    char text[24];

    BROKER_MUST(b, broker_read_committed(b, topic, &log));
    ck_assert_uint_eq(log.count, n);
    for (size_t i = 0; i < n; i++) {
        (void)snprintf(text, sizeof text, "%zu", i + 1);
        ck_assert_uint_eq(log.records[i]->len, strlen(text));
        ck_assert_mem_eq(log.records[i]->payload, text, strlen(text));
    }
    broker_log_release(&log);
}

START_TEST(another_node_leads_when_the_leader_is_killed)
{
    static struct broker b;
    static const struct broker_how commit = {.transaction = "t"};
    unsigned leader, next;

    (void)broker_start(&b, "4.1", 3, NULL);
    if (!broker_usable(&b)) {
        return;
    }
    BROKER_MUST(&b, broker_topic_create(&b, "led", 1, 0, NULL));
    BROKER_MUST(&b, broker_send_numbers(&b, "led", 0, 1, 50, &commit));
    BROKER_MUST(&b, broker_topic_leader(&b, "led", 0, &leader));
    ck_assert_uint_ge(leader, 1);
    ck_assert_uint_le(leader, 3);
    BROKER_MUST(&b, broker_kill(&b, SIGKILL, leader));
    BROKER_MUST(&b, broker_send_numbers(&b, "led", 0, 51, 50, &commit));
    BROKER_MUST(&b, broker_topic_leader(&b, "led", 0, &next));
    ck_assert_uint_ne(next, leader);
    must_count_to(&b, "led", 100);
    BROKER_MUST(&b, broker_restart(&b, leader, NULL));
    must_count_to(&b, "led", 100);
    BROKER_MUST(&b, broker_stop(&b));
}
END_TEST

/* ---- nothing is left ---- */

/* A pipe whose one end every process inherits that is started from here on: it says end of file
 * when the last of them has ended, whoever it was, and not before. */
static int lifeline[2];

static bool all_ended(int wait_ms)
{
    struct pollfd fd = {.fd = lifeline[0], .events = POLLIN};

    return poll(&fd, 1, wait_ms) == 1 && (fd.revents & POLLHUP);
}

START_TEST(no_process_and_no_file_outlives_a_stop)
{
    struct broker b;
    struct stat st;
    char directory[sizeof b.directory];

    ck_assert_int_eq(pipe(lifeline), 0);
    (void)broker_start(&b, broker_versions[_i], 1, NULL);
    close(lifeline[1]);
    if (!broker_usable(&b)) {
        return;
    }
    ck_assert(!all_ended(0));
    memcpy(directory, b.directory, sizeof directory);
    ck_assert_int_eq(stat(directory, &st), 0);
    BROKER_MUST(&b, broker_kill(&b, SIGSTOP, BROKER_ALL)); /* one that hears nothing ends, too */
    BROKER_MUST(&b, broker_stop(&b));
    ck_assert(all_ended(0));
    ck_assert_int_ne(stat(directory, &st), 0);
    BROKER_MUST(&b, broker_stop(&b));
}
END_TEST

START_TEST(a_broker_ends_with_its_process)
{
    int result[2];
    struct broker b;

    ck_assert_int_eq(pipe(lifeline), 0);
    ck_assert_int_eq(pipe(result), 0);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        (void)broker_start(&b, broker_versions[_i], 1, NULL);
        (void)!write(result[1], &b, sizeof b);
        for (;;) {
            (void)pause();
        }
    }
    close(lifeline[1]);
    ck_assert_int_eq(read(result[0], &b, sizeof b), sizeof b);
    if (broker_usable(&b)) {
        ck_assert(!all_ended(0));
    }
    ck_assert_int_eq(kill(pid, SIGKILL), 0);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    ck_assert(all_ended(FOREVER_MS));
    BROKER_MUST(&b, broker_stop(&b)); /* its files */
}
END_TEST

/* ---- failures ---- */

START_TEST(a_property_that_kafka_refuses_is_a_failure)
{
    static const char *const wrong[] = {"log.retention.ms=soon", NULL};
    struct broker b;

    if (broker_start(&b, broker_versions[_i], 1, wrong) == BROKER_ABSENT) {
        suite_skip(b.failure.what);
        return;
    }
    ck_assert_int_eq(b.failure.code, BROKER_SCRIPT);
    ck_assert_msg(strstr(b.failure.what, "Invalid value soon for configuration log.retention.ms"),
                  "%s", b.failure.what);
    BROKER_MUST(&b, broker_stop(&b));
}
END_TEST

/* A folder of links to what the script needs before it needs Java: a machine without that. */
static void make_poor_path(const char *folder)
{
    static const char *const tools[] = {"bash",  "env",  "cat",   "cmp", "cut", "date", "dirname",
                                        "flock", "head", "mkdir", "rm",  "sed", "tail", "timeout"};

    ck_assert_int_eq(mkdir(folder, 0700), 0);
    for (size_t i = 0; i < LEN(tools); i++) {
        char from[64], to[600];
        (void)snprintf(from, sizeof from, "/usr/bin/%s", tools[i]);
        (void)snprintf(to, sizeof to, "%s/%s", folder, tools[i]);
        ck_assert_int_eq(symlink(from, to), 0);
    }
}

START_TEST(a_machine_without_java_has_no_broker)
{
    char folder[512], cache[560], path[560];
    const char *tmp = getenv("TMPDIR");
    struct broker b[2];

    (void)snprintf(folder, sizeof folder, "%s/poor-XXXXXX", tmp ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    (void)snprintf(cache, sizeof cache, "%s/cache", folder);
    (void)snprintf(path, sizeof path, "%s/bin", folder);
    make_poor_path(path);
    const char *was = getenv("PATH");
    ck_assert_ptr_nonnull(was);
    char *old = strdup(was); /* setenv may take it away */
    ck_assert_int_eq(setenv("PATH", path, 1), 0);
    ck_assert_int_eq(setenv("LEVEE_KAFKA_CACHE", cache, 1), 0);
    (void)broker_start(&b[0], "4.1", 1, NULL);
    (void)broker_start(&b[1], "4.1", 1, NULL); /* now it is remembered */
    ck_assert_int_eq(setenv("PATH", old, 1), 0);
    ck_assert_int_eq(unsetenv("LEVEE_KAFKA_CACHE"), 0);
    free(old);
    char command[600];
    (void)snprintf(command, sizeof command, "rm -r '%s'", folder);
    ck_assert_int_eq(system(command), 0); /* NOLINT(cert-env33-c): a fixed command */

    for (size_t i = 0; i < LEN(b); i++) {
        const struct broker_failure *f = &b[i].failure;
        ck_assert_int_eq(f->code, BROKER_ABSENT);
        if (f->detail == 0) { /* for another reason: it did not even get to the script */
            suite_skip(f->what);
            return;
        }
        ck_assert_msg(strstr(f->what, "NO REAL KAFKA: Java 17") && !strchr(f->what, '\n'), "%s",
                      f->what);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("broker_life");
    TCase *tc = tcase_create("all");
    const int both = BROKER_VERSIONS;

    tcase_add_loop_test(tc, no_process_and_no_file_outlives_a_stop, 0, both);
    tcase_add_loop_test(tc, a_broker_ends_with_its_process, 0, both);
    tcase_add_loop_test(tc, a_property_that_kafka_refuses_is_a_failure, 0, both);
    tcase_add_test(tc, another_node_leads_when_the_leader_is_killed);
    tcase_add_test(tc, a_machine_without_java_has_no_broker);
    suite_add_tcase(suite, tc);
    return suite_main(suite);
}
