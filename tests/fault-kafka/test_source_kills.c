/*
 * The Kafka source killed on a real broker. Process death: SIGKILL of a child that reads, at random
 * instants. And stopped while the broker answers nothing (fault 79).
 *
 * The oracle is the state after the last life: every committed record once.
 */
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/integration/test_kafka_source_rig.h"

#define LEN(array) (sizeof(array) / sizeof *(array))

static struct broker broker;
static struct rig rig;
static struct rig_expected expected;

static void start_broker(void)
{
    (void)broker_start(&broker, "4.1", 1, NULL);
}

static void stop_broker(void)
{
    (void)broker_stop(&broker);
}

static bool begin(const char *topic, int partitions)
{
    return rig_open_on(&rig, &broker, topic, partitions, 1, NULL);
}

static void send_numbers(int32_t partition, uint64_t first, size_t count,
                         const struct broker_how *how)
{
    rig_send_numbers(&rig, &broker, &expected, partition, first, count, how);
}

/* ---- the reader dies ---- */

static uint64_t seed = 20240229;

static uint64_t below(uint64_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (seed >> 33) % n;
}

/* A life that is killed after so many milliseconds; counted from its start, or from its first
 * records. */
static void live_and_die(int after_ms, bool from_start)
{
    int ends[2], status = 0;
    char byte;

    ck_assert_int_eq(pipe(ends), 0);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        rig_up(&rig);
        rig_await(&rig, rig.total + 1);
        for (;;) {
            (void)!write(ends[1], "", 1);
            (void)pause();
        }
    }
    struct pollfd reading = {.fd = ends[0], .events = POLLIN}, nothing = {.fd = -1};
    if (!from_start) {
        ck_assert_msg(poll(&reading, 1, RIG_PATIENCE_MS) == 1 && read(ends[0], &byte, 1) == 1,
                      "the child reads nothing");
    }
    (void)poll(&nothing, 1, after_ms);
    ck_assert_int_eq(kill(child, SIGKILL), 0);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
                  "the child ended by itself with status %d", status);
    (void)close(ends[0]);
    (void)close(ends[1]);
}

START_TEST(a_reader_killed_at_random_instants_reads_every_record_once)
{
    static const struct broker_how commit = {.transaction = "tx", .end = BROKER_COMMIT};
    static const struct broker_how abort_it = {.transaction = "tx", .end = BROKER_ABORT};
    const struct broker_how *const hows[] = {NULL, &commit, &abort_it, NULL};
    uint64_t next = 0;

    const char *const topic = _i ? "killed-positions" : "killed";

    if (!begin(topic, 3)) {
        return;
    }
    rig.kafka.mode = _i ? LEVEE_KAFKA_POSITIONS : LEVEE_KAFKA_DATA;
    rig.kafka.group = topic;
    rig.kafka.commit_ms = 20;
    rig.kafka.look_ms = 20;
    rig.levee.checkpoint_ms = 50;
    for (int life = 0; life < 30; life++) {
        for (int32_t p = 0; p < 3; p++) {
            size_t n = 1 + (size_t)below(200);
            send_numbers(p, next, n, hows[below(LEN(hows))]);
            next += n;
        }
        if (life == 15) {
            BROKER_MUST(&broker, broker_topic_grow(&broker, topic, 4));
        }
        /* The first lives are killed while they find their starts. */
        live_and_die((int)below(life < 8 ? 40 : 80), life < 8 || life % 2);
    }
    rig_up(&rig);
    rig_finish(&rig, &expected);
}
END_TEST

/* stop_at_end through kills: the end of the first start, whatever is sent meanwhile. */
START_TEST(a_run_that_is_killed_ends_where_it_would_have_ended)
{
    struct levee_error err = {0};

    if (!begin("killed-run", 2)) {
        return;
    }
    for (int32_t p = 0; p < 2; p++) {
        send_numbers(p, (uint64_t)p * 100000, 3000, NULL);
    }
    rig.levee.stop_at_end = true;
    rig.levee.max_rate = 8000; /* about 750 ms */
    live_and_die(0, false);    /* its ends are in the log: it has read something */
    for (int life = 0; life < 5; life++) {
        BROKER_MUST(&broker,
                    broker_send_numbers(&broker, "killed-run", life % 2, 900000, 50, NULL));
        live_and_die((int)below(60), true);
    }
    rig.levee.max_rate = 0;
    rig_up(&rig);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_OK);
    rig_must_hold(&rig, &expected);
    rig_close(&rig);
    rig_expected_release(&expected);
}
END_TEST

/* ---- the broker is silent ---- */

START_TEST(f79_a_stop_is_quick_while_the_broker_answers_nothing)
{
    struct levee_error err = {0};

    if (!begin("silent", 1)) {
        return;
    }
    rig.kafka.group = "silent";
    rig.kafka.commit_ms = 20;
    send_numbers(0, 1, 100, NULL);
    rig_up(&rig);
    rig_await(&rig, 100);
    BROKER_MUST(&broker, broker_kill(&broker, SIGSTOP, BROKER_ALL));
    int64_t before = rig_now_ms();
    ck_assert_int_eq(levee_stop(rig.ctx, &err), LEVEE_OK);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_OK);
    int64_t took = rig_now_ms() - before;
    ck_assert_msg(took < 3000, "the stop took %" PRId64 " ms", took);
    rig_down(&rig);
    rig_up(&rig); /* nor does a start need an answer */
    before = rig_now_ms();
    ck_assert_int_eq(levee_stop(rig.ctx, &err), LEVEE_OK);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_OK);
    took = rig_now_ms() - before;
    ck_assert_msg(took < 3000, "the stop took %" PRId64 " ms", took);
    rig_down(&rig);
    BROKER_MUST(&broker, broker_kill(&broker, SIGCONT, BROKER_ALL));
    rig_up(&rig);
    send_numbers(0, 1000, 100, NULL);
    rig_finish(&rig, &expected);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kills of the Kafka source");
    TCase *t = tcase_create("real broker");

    tcase_add_unchecked_fixture(t, start_broker, stop_broker);
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, a_reader_killed_at_random_instants_reads_every_record_once, 0, 2);
    tcase_add_test(t, a_run_that_is_killed_ends_where_it_would_have_ended);
    tcase_add_test(t, f79_a_stop_is_quick_while_the_broker_answers_nothing);
    suite_add_tcase(s, t);
    return suite_main(s);
}
