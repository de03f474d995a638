#include "bench/kafka_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"

#define EXIT_ABSENT 77
#define ADMIN_MS    30000
#define TOPICS_MAX  4096
#define ARGS_MAX    32

extern char **environ;

char rig_brokers[256];
double rig_patience = 1;
const char *rig_program;

static struct {
    char script[600], directory[600];
    pid_t owner; /* who started it */
    pid_t pid;
    rd_kafka_t *admin;
    char *topics[TOPICS_MAX];
    size_t topic_count;
} rig;

const char rig_consumer_settings[] = /* levee's own: connectors/kafka_config.c */
    "enable.auto.commit=false enable.auto.offset.store=false auto.offset.reset=error "
    "check.crcs=true isolation.level=read_committed enable.partition.eof=true "
    "fetch.wait.max.ms=10 queued.min.messages=100000 queued.max.messages.kbytes=16384 "
    "fetch.message.max.bytes=2097152 fetch.max.bytes=16777216 "
    "receive.message.max.bytes=134217728";

/* ---- the broker ---- */

/* Runs the script; its standard output is kept, its complaints go to ours. Returns its exit code.
 */
static int run_script(char *const *argv, char *ret_said, size_t size)
{
    posix_spawn_file_actions_t actions;
    int ends[2], status = 0;
    size_t n = 0;
    ssize_t got;
    pid_t child;

    bench_must(pipe(ends) == 0, "pipe");
    (void)posix_spawn_file_actions_init(&actions);
    (void)posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    (void)posix_spawn_file_actions_addclose(&actions, ends[0]);
    (void)posix_spawn_file_actions_addclose(&actions, ends[1]);
    (void)fflush(stdout);
    bench_must(posix_spawn(&child, argv[0], &actions, NULL, argv, environ) == 0, argv[0]);
    (void)posix_spawn_file_actions_destroy(&actions);
    (void)close(ends[1]);
    while (n < size - 1 && (got = read(ends[0], ret_said + n, size - 1 - n)) > 0) {
        n += (size_t)got;
    }
    ret_said[n] = 0;
    (void)close(ends[0]);
    bench_must(waitpid(child, &status, 0) == child, "waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static void read_pid(void)
{
    char path[700], text[64] = "";

    (void)snprintf(path, sizeof path, "%s/node1/pid", rig.directory);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bench_must(fd >= 0 && read(fd, text, sizeof text - 1) > 0, path);
    (void)close(fd);
    rig.pid = (pid_t)strtol(text, NULL, 10);
}

bool rig_start(void)
{
    char watch[24], start[] = "start", by[] = "--watch", jvm[] = "--jvm";
    char options[] = "-XX:TieredStopAtLevel=4 -Xmx1g";
    char *argv[] = {rig.script, start, rig.directory, by, watch, jvm, options, NULL};
    static char said[4096];

    (void)snprintf(watch, sizeof watch, "%ld", (long)getpid());
    (void)snprintf(rig.script, sizeof rig.script, "%.*s/../../../tests/support/kafka/broker",
                   (int)(strrchr(rig_program, '/') - rig_program), rig_program);
    (void)snprintf(rig.directory, sizeof rig.directory, "%s/broker", bench_scratch());
    int code = run_script(argv, said, sizeof said);
    if (code == EXIT_ABSENT) {
        (void)printf("SKIPPED: no real Kafka on this machine; none of this program's rungs was "
                     "measured\n");
        return false;
    }
    bench_must(code == 0, "the broker does not start");
    char *end = said + strlen(said);
    while (end > said && end[-1] == '\n') {
        *--end = 0;
    }
    const char *last = strrchr(said, '\n');
    (void)snprintf(rig_brokers, sizeof rig_brokers, "%s", last ? last + 1 : said);
    rig.owner = getpid();
    read_pid();
    rig.admin = rig_client(RD_KAFKA_PRODUCER, rig_conf(""));
    return true;
}

void rig_stop(void)
{
    char stop[] = "stop", all[] = "--remove", said[256];
    char *argv[] = {rig.script, stop, rig.directory, all, NULL};

    if (rig.owner == getpid()) {
        rd_kafka_destroy(rig.admin);
        rig.owner = 0;
        (void)run_script(argv, said, sizeof said);
        while (rig.topic_count) {
            free(rig.topics[--rig.topic_count]);
        }
    }
}

/* ---- what a process has used ---- */

double rig_cpu_of(pid_t pid)
{
    char path[64], text[1024] = "";

    (void)snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    bench_must(n > 0, path);
    (void)close(fd);
    const char *p = strrchr(text, ')'); /* field 2; utime and stime are 14 and 15 */
    for (int field = 2; p && field < 14; field++) {
        p = strchr(p + 1, ' ');
    }
    bench_must(p != NULL, path);
    char *next;
    unsigned long user = strtoul(p, &next, 10), system = strtoul(next, NULL, 10);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

double rig_memory_of(pid_t pid)
{
    char path[64], text[4096] = "";

    (void)snprintf(path, sizeof path, "/proc/%ld/status", (long)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    bench_must(n > 0, path);
    (void)close(fd);
    const char *p = strstr(text, "VmHWM:");
    return p ? strtod(p + strlen("VmHWM:"), NULL) / 1024 : 0;
}

double rig_broker_cpu(void)
{
    return rig_cpu_of(rig.pid);
}

struct rig_cost rig_begin(void)
{
    struct bench_time t = bench_start();

    return (struct rig_cost){t.wall, t.cpu, rig_broker_cpu()};
}

struct rig_cost rig_since(struct rig_cost begin)
{
    struct rig_cost now = rig_begin();

    return (struct rig_cost){now.wall - begin.wall, now.cpu - begin.cpu, now.broker - begin.broker};
}

/* ---- clients ---- */

void rig_kafka(rd_kafka_resp_err_t code, const char *what)
{
    struct levee_error err = {0};

    if (code) {
        err_set(&err, LEVEE_EBROKER, "%s", rd_kafka_err2str(code));
        bench_die(what, &err);
    }
}

void rig_kafka_error(rd_kafka_error_t *e, const char *what)
{
    struct levee_error err = {0};

    if (e) {
        err_set(&err, LEVEE_EBROKER, "%s", rd_kafka_error_string(e));
        bench_die(what, &err);
    }
}

static void set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
    char text[256];

    if (rd_kafka_conf_set(conf, name, value, text, sizeof text) != RD_KAFKA_CONF_OK) {
        bench_must(false, text);
    }
}

static void set_all(rd_kafka_conf_t *conf, const char *settings)
{
    char name[64], value[512];
    int used = 0;

    while (sscanf(settings, " %63[^=]=%511s%n", name, value, &used) == 2) {
        set(conf, name, value);
        settings += used;
    }
    bench_must(settings[strspn(settings, " ")] == 0, settings);
}

rd_kafka_conf_t *rig_conf(const char *settings)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();

    set(conf, "bootstrap.servers", rig_brokers);
    set(conf, "log_level", "0");
    set(conf, "socket.nagle.disable", "true");
    set_all(conf, settings);
    return conf;
}

rd_kafka_t *rig_client(rd_kafka_type_t type, rd_kafka_conf_t *conf)
{
    char text[256];
    rd_kafka_t *rk = rd_kafka_new(type, conf, text, sizeof text);

    bench_must(rk != NULL, text);
    return rk;
}

static void delivered(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque)
{
    (void)rk;
    (void)opaque;
    rig_kafka(m->err, "a message was not delivered");
    bench_must(m->offset >= 0, "a message was not delivered, and lies nowhere");
}

rd_kafka_t *rig_producer(const char *settings)
{
    rd_kafka_conf_t *conf = rig_conf(settings);

    rd_kafka_conf_set_dr_msg_cb(conf, delivered);
    return rig_client(RD_KAFKA_PRODUCER, conf);
}

rd_kafka_topic_t *rig_meet(rd_kafka_t *rk, const char *topic)
{
    const struct rd_kafka_metadata *md = NULL;
    rd_kafka_topic_t *rkt = rd_kafka_topic_new(rk, topic, NULL);

    rig_kafka(rd_kafka_metadata(rk, 0, rkt, &md, ADMIN_MS), "metadata");
    rd_kafka_metadata_destroy(md);
    return rkt;
}

rd_kafka_t *rig_consumer(const char *topic, int partitions, const char *settings)
{
    rd_kafka_conf_t *conf = rig_conf("group.id=bench");

    set_all(conf, rig_consumer_settings);
    set_all(conf, settings);
    rd_kafka_t *rk = rig_client(RD_KAFKA_CONSUMER, conf);
    (void)rd_kafka_poll_set_consumer(rk);
    rd_kafka_topic_destroy(rig_meet(rk, topic));
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(partitions);
    for (int p = 0; p < partitions; p++) {
        rd_kafka_topic_partition_list_add(list, topic, p)->offset = 0;
    }
    rig_kafka(rd_kafka_assign(rk, list), "assign");
    rd_kafka_topic_partition_list_destroy(list);
    return rk;
}

void rig_consumer_destroy(rd_kafka_t *rk)
{
    rd_kafka_destroy_flags(rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
}

/* ---- topics ---- */

const char *rig_topic(const char *kind, int partitions)
{
    char name[64], text[256];
    rd_kafka_queue_t *q = rd_kafka_queue_new(rig.admin);
    size_t n = 0;

    bench_must(rig.topic_count < TOPICS_MAX, "too many topics");
    (void)snprintf(name, sizeof name, "%s-%zu", kind, rig.topic_count);
    rd_kafka_NewTopic_t *topic = rd_kafka_NewTopic_new(name, partitions, 1, text, sizeof text);
    bench_must(topic != NULL, text);
    rd_kafka_CreateTopics(rig.admin, &topic, 1, NULL, q);
    rd_kafka_event_t *ev = rd_kafka_queue_poll(q, ADMIN_MS);
    bench_must(ev != NULL, "no answer to the making of a topic");
    const rd_kafka_topic_result_t **results =
        rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(ev), &n);
    bench_must(n == 1, "making a topic");
    rig_kafka(rd_kafka_topic_result_error(results[0]), "making a topic");
    rd_kafka_event_destroy(ev);
    rd_kafka_NewTopic_destroy(topic);
    rd_kafka_queue_destroy(q);
    rig.topics[rig.topic_count] = strdup(name);
    bench_must(rig.topics[rig.topic_count] != NULL, "memory");
    rd_kafka_t *rk = rig_consumer(name, partitions, ""); /* until there are leaders */
    for (int p = 0; p < partitions; p++) {
        int64_t low, high;
        double deadline = bench_now() + 10;
        while (rd_kafka_query_watermark_offsets(rk, name, p, &low, &high, 1000) &&
               bench_now() < deadline) {
            bench_sleep_until(bench_now() + 0.01);
        }
    }
    rig_consumer_destroy(rk);
    return rig.topics[rig.topic_count++];
}

void rig_topic_delete(const char *topic)
{
    rd_kafka_DeleteTopic_t *gone = rd_kafka_DeleteTopic_new(topic);
    rd_kafka_queue_t *q = rd_kafka_queue_new(rig.admin);

    rd_kafka_DeleteTopics(rig.admin, &gone, 1, NULL, q);
    rd_kafka_event_t *ev = rd_kafka_queue_poll(q, ADMIN_MS);
    if (ev) {
        rd_kafka_event_destroy(ev);
    }
    rd_kafka_DeleteTopic_destroy(gone);
    rd_kafka_queue_destroy(q);
}

void rig_fill(const char *topic, int partitions, uint64_t count,
              void (*make)(void *arg, uint64_t i, struct rig_record *ret), void *arg)
{
    /* One request at a time: docs/kafka.md, "Delivered" without an offset. */
    rd_kafka_t *rk =
        rig_producer("linger.ms=20 batch.size=400000 batch.num.messages=100000 "
                     "max.in.flight=1 queue.buffering.max.messages=400000 enable.idempotence=true");
    rd_kafka_topic_t *rkt = rig_meet(rk, topic);

    for (uint64_t i = 0; i < count; i++) {
        struct rig_record r;
        make(arg, i, &r);
        while (rd_kafka_produce(rkt, (int32_t)(i % (uint64_t)partitions), RD_KAFKA_MSG_F_COPY,
                                r.data, r.len, NULL, 0, NULL) != 0) {
            bench_must(rd_kafka_last_error() == RD_KAFKA_RESP_ERR__QUEUE_FULL, "produce");
            (void)rd_kafka_poll(rk, 10);
        }
        if (i % 1000 == 0) {
            (void)rd_kafka_poll(rk, 0);
        }
    }
    rig_kafka(rd_kafka_flush(rk, 60000), "flush");
    rd_kafka_topic_destroy(rkt);
    rd_kafka_destroy(rk);
}

pid_t rig_wordcount(const char *input, const char *output, const char *batch_ms, const char *mode)
{
    char path[600], more[256];
    const char *extra = getenv("WORDS_ARGS");
    const char *argv[ARGS_MAX] = {path,   "--brokers",   rig_brokers, "--topic",
                                  input,  "--directory", "state",     "--output-topic",
                                  output, "--batch-ms",  batch_ms,    "--mode",
                                  mode};
    size_t n = 13;
    pid_t child;

    (void)snprintf(path, sizeof path, "%.*s/../examples/kafka_wordcount",
                   (int)(strrchr(rig_program, '/') - rig_program), rig_program);
    (void)snprintf(more, sizeof more, "%s", extra ? extra : "");
    for (char *save, *a = strtok_r(more, " ", &save); a && n < ARGS_MAX - 1;
         a = strtok_r(NULL, " ", &save)) {
        argv[n++] = a;
    }
    bench_must(posix_spawn(&child, path, NULL, NULL, (char *const *)(uintptr_t)argv, environ) == 0,
               path);
    return child;
}
