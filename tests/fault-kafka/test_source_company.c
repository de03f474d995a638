/*
 * The Kafka source beside others: ordinary members of its group that come, go and die; a second
 * process with an overlapping set; a log that stands still; a record that no function takes. On a
 * real broker. Faults 81, 82, 84, 91, 94. Loss: none, but a member of the group that is killed.
 *
 * The oracle is the state at the end: every record once. What the group looks like is asked with
 * plain librdkafka.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* syscall */
#endif
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/fault/kafka_trial.h"
#include "tests/integration/test_kafka_source_rig.h"

#define LEN(array) (sizeof(array) / sizeof *(array))

static struct broker broker;
static struct rig rig, second;
static struct rig_expected expected, others;

/* ---- a disk that stops ---- */

static pthread_mutex_t disk_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t disk_moves = PTHREAD_COND_INITIALIZER;
static bool disk_stands;
static unsigned syncs_waiting;

/* In front of the C library's: a disk that takes a sync and does not come back. */
int fdatasync(int fd)
{
    pthread_mutex_lock(&disk_mutex);
    syncs_waiting++;
    while (disk_stands) {
        pthread_cond_wait(&disk_moves, &disk_mutex);
    }
    syncs_waiting--;
    pthread_mutex_unlock(&disk_mutex);
    return (int)syscall(SYS_fdatasync, fd);
}

static void disk_stand(bool still)
{
    pthread_mutex_lock(&disk_mutex);
    disk_stands = still;
    pthread_cond_broadcast(&disk_moves);
    pthread_mutex_unlock(&disk_mutex);
}

static unsigned disk_waiting(void)
{
    pthread_mutex_lock(&disk_mutex);
    unsigned n = syncs_waiting;
    pthread_mutex_unlock(&disk_mutex);
    return n;
}

/* ---- a group ---- */

static bool begin(const char *topic, int partitions)
{
    if (!rig_open_on(&rig, &broker, topic, partitions, 1, NULL)) {
        return false;
    }
    rig.kafka.group = topic;
    rig.kafka.commit_ms = 50;
    return true;
}

static void send_numbers(int32_t partition, uint64_t first, size_t count)
{
    rig_send_numbers(&rig, &broker, &expected, partition, first, count, NULL);
}

static void await_committed(const char *topic, int32_t partition, int64_t offset)
{
    int64_t seen = -1;

    for (int64_t end = rig_now_ms() + RIG_PATIENCE_MS; seen != offset;) {
        ck_assert_msg(rig_now_ms() < end, "the group is at %" PRId64 ", not at %" PRId64, seen,
                      offset);
        BROKER_MUST(&broker, broker_committed(&broker, topic, topic, partition, &seen));
    }
}

/* An ordinary consumer that subscribes; it never commits. */
static rd_kafka_t *member(const char *topic)
{
    const char *const list[][2] = {{"bootstrap.servers", broker_address(&broker)},
                                   {"group.id", topic},
                                   {"enable.auto.commit", "false"},
                                   {"session.timeout.ms", "6000"},
                                   {"heartbeat.interval.ms", "500"},
                                   {"auto.offset.reset", "earliest"}};
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    char text[256];

    for (size_t i = 0; i < LEN(list); i++) {
        ck_assert_int_eq(rd_kafka_conf_set(conf, list[i][0], list[i][1], text, sizeof text), 0);
    }
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof text);
    ck_assert_ptr_nonnull(rk);
    rd_kafka_poll_set_consumer(rk);
    rd_kafka_topic_partition_list_t *topics = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(topics, topic, RD_KAFKA_PARTITION_UA);
    ck_assert_int_eq(rd_kafka_subscribe(rk, topics), 0);
    rd_kafka_topic_partition_list_destroy(topics);
    return rk;
}

static int assigned(rd_kafka_t *rk)
{
    rd_kafka_topic_partition_list_t *list = NULL;

    ck_assert_int_eq(rd_kafka_assignment(rk, &list), 0);
    int n = list->cnt;
    rd_kafka_topic_partition_list_destroy(list);
    return n;
}

/* Until each of them has so many partitions, and keeps up the membership meanwhile. */
static void await_assigned(rd_kafka_t *const *members, int count, int each)
{
    int64_t end = rig_now_ms() + RIG_PATIENCE_MS;
    int done = 0;

    while (done < count) {
        done = 0;
        ck_assert_msg(rig_now_ms() < end, "the group does not settle");
        for (int i = 0; i < count; i++) {
            rd_kafka_message_t *m = rd_kafka_consumer_poll(members[i], 20);
            if (m) {
                rd_kafka_message_destroy(m);
            }
            done += assigned(members[i]) == each;
        }
    }
}

static void leave(rd_kafka_t *rk)
{
    ck_assert_int_eq(rd_kafka_consumer_close(rk), 0);
    rd_kafka_destroy(rk);
}

static int member_count(const char *group)
{
    const struct rd_kafka_group_list *list = NULL;
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    char text[256];

    (void)rd_kafka_conf_set(conf, "bootstrap.servers", broker_address(&broker), text, sizeof text);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
    ck_assert_ptr_nonnull(rk);
    ck_assert_int_eq(rd_kafka_list_groups(rk, group, &list, BROKER_PATIENCE_MS), 0);
    int n = list->group_cnt == 1 ? list->groups[0].member_cnt : -1;
    rd_kafka_group_list_destroy(list);
    rd_kafka_destroy(rk);
    return n;
}

/* A process that becomes a member when it is told to. It is made before this one has threads. */
struct mortal {
    pid_t pid;
    int tell, hear;
};

static void mortal_make(struct mortal *m, const char *topic)
{
    int to[2], from[2];
    char byte;

    ck_assert_int_eq(pipe(to), 0);
    ck_assert_int_eq(pipe(from), 0);
    *m = (struct mortal){.pid = fork(), .tell = to[1], .hear = from[0]};
    ck_assert_int_ge(m->pid, 0);
    if (m->pid == 0) {
        (void)close(to[1]); /* or it would never see its parent go */
        if (read(to[0], &byte, 1) != 1) {
            _exit(0);
        }
        rd_kafka_t *rk = member(topic);
        await_assigned(&rk, 1, 1);
        (void)!write(from[1], "", 1);
        for (;;) {
            (void)rd_kafka_consumer_poll(rk, 1000);
        }
    }
    (void)close(to[0]);
    (void)close(from[1]);
}

/* It joins, and is killed: the group waits for it, then takes its partitions away. */
static void mortal_lives_and_dies(struct mortal *m)
{
    char byte;
    int status;

    ck_assert_int_eq(write(m->tell, "", 1), 1);
    ck_assert_int_eq(read(m->hear, &byte, 1), 1);
    ck_assert_int_eq(kill(m->pid, SIGKILL), 0);
    ck_assert_int_eq(waitpid(m->pid, &status, 0), m->pid);
    (void)close(m->tell);
    (void)close(m->hear);
}

/* Rebalances, and one that is lost: ours are no business of the group's. What the group does not
 * let us commit meanwhile is told and counted, and committed when the members have gone. */
START_TEST(f81_members_that_come_go_and_die_move_nothing_of_ours)
{
    rd_kafka_t *members[2];

    if (!begin("crowd", 2)) {
        return;
    }
    send_numbers(0, 1, 500);
    rig_up(&rig);
    rig_await(&rig, 500);
    await_committed("crowd", 0, 500);
    members[0] = member("crowd");
    await_assigned(members, 1, 2);
    send_numbers(1, 1000, 500); /* read by us although they are another's by the group's rules */
    rig_await(&rig, 1000);
    members[1] = member("crowd");
    await_assigned(members, 2, 1);
    ck_assert_int_eq(member_count("crowd"), 2); /* none of them is we */
    send_numbers(0, 2000, 500);
    send_numbers(1, 3000, 500);
    rig_await(&rig, 2000);
    rig_await_said(&rig, "could not be committed"); /* the group commits for members only */
    ck_assert_uint_ge(rig_status(&rig).commit_failures, 1);
    leave(members[1]);
    leave(members[0]);
    await_committed("crowd", 0, 1000);
    await_committed("crowd", 1, 1000);
    rig_finish(&rig, &expected);
}
END_TEST

START_TEST(f82_a_member_whose_session_expires_takes_nothing_of_ours)
{
    struct mortal mortal;

    if (!begin("expired", 1)) {
        return;
    }
    mortal_make(&mortal, "expired");
    send_numbers(0, 1, 500);
    rig_up(&rig);
    rig_await(&rig, 500);
    mortal_lives_and_dies(&mortal);
    ck_assert_int_eq(member_count("expired"), 1); /* it is still waited for */
    send_numbers(0, 1000, 500);
    rig_await(&rig, 1000);
    await_committed("expired", 0, 1000); /* when its session is over */
    ck_assert_int_eq(member_count("expired"), 0);
    rig_finish(&rig, &expected);
}
END_TEST

/* The log's disk stands still, and nothing can be stored: the source stops, it is thrown out of
 * nothing, and goes on where it was. What is committed never runs ahead. */
START_TEST(f84_a_log_that_stands_still_loses_nothing_and_no_membership)
{
    int still_ms = numbered_full() ? 40000 : 8000;
    int64_t before = 0, seen = 0;

    if (!begin("still", 1)) {
        return;
    }
    rig.kafka.properties = (const char *const[]){"session.timeout.ms=6000", NULL};
    send_numbers(0, 1, 1000);
    rig_up(&rig);
    rig_await(&rig, 1000);
    await_committed("still", 0, 1000);
    disk_stand(true);
    send_numbers(0, 10000, 20000);
    for (int64_t end = rig_now_ms() + RIG_PATIENCE_MS; disk_waiting() == 0;) {
        ck_assert_msg(rig_now_ms() < end, "nothing is synced");
        rig_wait_ms(&rig, 5);
    }
    (void)poll(NULL, 0, still_ms);
    BROKER_MUST(&broker, broker_committed(&broker, "still", "still", 0, &before));
    ck_assert_int_eq(before, 1000); /* nothing more is durable */
    ck_assert_int_eq(member_count("still"), 0);
    disk_stand(false);
    rig_await(&rig, 21000);
    await_committed("still", 0, 21000);
    BROKER_MUST(&broker, broker_committed(&broker, "still", "still", 0, &seen));
    ck_assert_uint_eq(rig_status(&rig).commit_failures, 0);
    rig_finish(&rig, &expected);
}
END_TEST

/* ---- two processes ---- */

static void take(struct rig *r, const struct levee_kafka_partition *set, size_t count)
{
    r->kafka.topic = NULL;
    r->kafka.partitions = set;
    r->kafka.partition_count = count;
}

START_TEST(f94_sets_that_overlap_are_refused_and_others_share_a_topic)
{
    static const struct levee_kafka_partition set[] = {{"shared", 0}, {"shared", 1}, {"shared", 2}};
    struct levee_error err = {0};
    int64_t offset = 0;

    if (!begin("shared", 3)) {
        return;
    }
    send_numbers(0, 1, 100);
    send_numbers(1, 1000, 100);
    BROKER_MUST(&broker, broker_send_numbers(&broker, "shared", 2, 2000, 100, NULL));
    rig_expect_numbers(&others, 2000, 100);
    take(&rig, set, 2);
    rig_up(&rig);
    rig_await(&rig, 200);
    await_committed("shared", 1, 100);
    rig_open(&second, broker_address(&broker), "shared");
    second.text = rig_text_timeless;
    second.kafka.group = "shared";
    second.kafka.commit_ms = 50;
    take(&second, set + 1, 2);
    rig_up(&second);
    ck_assert_int_eq(rig_end(&second, &err), LEVEE_ESOURCE_FOREIGN);
    ck_assert_ptr_nonnull(strstr(err.found, "levee "));
    ck_assert_int_eq(second.total, 0);
    BROKER_MUST(&broker, broker_committed(&broker, "shared", "shared", 2, &offset));
    ck_assert_int_eq(offset, -1); /* nothing is claimed */
    rig_down(&second);
    rig_down(&rig); /* and the name stays there while its owner is away */
    rig_up(&second);
    ck_assert_int_eq(rig_end(&second, &err), LEVEE_ESOURCE_FOREIGN);
    rig_down(&second);
    take(&second, set + 2, 1);
    rig_up(&second);
    rig_await(&second, 100);
    await_committed("shared", 2, 100);
    rig_drain(&second);
    rig_must_hold(&second, &others);
    rig_close(&second);
    rig_expected_release(&others);
    rig_up(&rig);
    rig_finish(&rig, &expected);
}
END_TEST

/* ---- poison ---- */

static int count_letter(void *arg, const struct levee_dead_letter *letter)
{
    ck_assert_int_eq(letter->code, RIG_POISONED);
    ck_assert_int_eq((int)letter->value.len, 3);
    ck_assert_mem_eq(letter->value.data, "250", 3);
    ++*(unsigned *)arg;
    return 0;
}

/* Decided once, with the batch that its offset belongs to: no restart reads it again. */
START_TEST(f91_a_poisoned_record_is_a_dead_letter_once)
{
    char poison[RIG_TEXT];
    struct levee_error err = {0};
    unsigned letters = 0;

    if (!begin("poisoned", 1)) {
        return;
    }
    rig_text_of((struct levee_slice){0}, levee_text("250"), 0, poison);
    rig.poison = poison;
    rig.levee.on_failure = LEVEE_DEAD_LETTER;
    BROKER_MUST(&broker, broker_send_numbers(&broker, "poisoned", 0, 1, 500, NULL));
    rig_expect_numbers(&expected, 1, 249);
    rig_expect_numbers(&expected, 251, 250);
    rig_up(&rig);
    rig_await(&rig, 500); /* the total counts it, the function that fails is another one */
    rig_down(&rig);
    for (int life = 0; life < 3; life++) {
        rig_up(&rig);
        send_numbers(0, 1000 + 100 * (uint64_t)life, 100);
        rig_await(&rig, 500 + 100 * (life + 1));
        if (life < 2) {
            rig_down(&rig);
        }
    }
    rig_drain(&rig);
    rig_must_hold(&rig, &expected);
    ck_assert_int_eq(levee_dead_letters_each(rig.ctx, count_letter, &letters, &err), 0);
    ck_assert_uint_eq(letters, 1);
    rig_close(&rig);
    rig_expected_release(&expected);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("company of the Kafka source");
    const TTest *tests[] = {
        f81_members_that_come_go_and_die_move_nothing_of_ours,
        f82_a_member_whose_session_expires_takes_nothing_of_ours,
        f84_a_log_that_stands_still_loses_nothing_and_no_membership,
        f91_a_poisoned_record_is_a_dead_letter_once,
        f94_sets_that_overlap_are_refused_and_others_share_a_topic,
    };

    (void)broker_start(&broker, ktrial_version(), 1, NULL);
    for (size_t i = 0; i < LEN(tests); i++) {
        numbered_add(s, tests[i], 180);
    }
    int code = suite_main(s);
    (void)broker_stop(&broker);
    return code;
}
