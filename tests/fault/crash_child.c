/*
 * The process that is killed: a small exactly-once job, started by the tests of this folder.
 *
 *     crash_child DIR OUT ACKS STATUS SEED RECORDS [--point|--stop NAME HIT] [--idle] [--forever]
 *                 [--close-fds] [--ahead SETS] [--rate RECORDS] [--kafka BROKERS TOPIC] [--also
 * BROKERS TOPIC]
 *                 [--property P]... [--refresh MS] [--timeout MS] [--part BYTES]
 *
 * A sender with numbered records (crash_job.h) hands them over in sets and resumes, as a real one
 * would, behind what levee calls durable, going back a few records that were taken already. Keyed
 * totals live in state; every batch publishes its changed totals through the files sink. Batches
 * are short, checkpoints frequent and segments small, so that every step happens many times.
 *
 * ACKS (appended): "resume N" when a life learns what is durable, "ack N" when the sender is told
 * that N is durable: with that it would forget the record. STATUS: struct job_status.
 *
 * With --point the process kills itself with SIGKILL at that point's HIT-th pass, with --stop it
 * stops itself with SIGSTOP. With --idle it
 * goes quiet now and then until the log has sealed itself. Without --forever it ends with exit code
 * 0 once RECORDS are in and drained; with it, it goes on sending until it is killed. With
 * --close-fds it closes, after a few sets, every descriptor that it has not opened itself, as hosts
 * do that turn into daemons. --ahead: how many sets the sender lets levee have before their batches
 * are done. --kafka: the totals go to a topic instead of files, with --also to a second one as
 * well; the rest are options of these sinks.
 */
#include "levee/testing.h"
#include "tests/fault/crash_job.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define SETS_IN_FLIGHT 2
/* Even seeds: more on the way than the buffer holds, so that the sender is held back and a start
 * reads from the log again what did not fit. */
#define TIGHT_SETS      60
#define TIGHT_BUFFER    (24u << 10)
#define QUIET_EVERY     8  /* sets */
#define CLOSE_AFTER     20 /* sets */
#define FDS             256
#define SEAL_PATIENCE_S 3
#define RESENT          5
#define PENDING_MAX     1024

static struct {
    const char *directory, *out, *point, *brokers, *topic, *also_brokers, *also_topic;
    const char *properties[8];
    size_t property_count;
    uint64_t seed, records, hit;
    uint64_t ahead, rate;
    uint32_t refresh_ms, timeout_ms;
    uint64_t part_bytes;
    bool idle, forever, close_fds, stop;
} opt;

static struct {
    levee_context *ctx;
    levee_inlet *inlet;
    struct job_status *status;
    int acks;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct {
        uint64_t ticket, last;
    } pending[PENDING_MAX]; /* sets on their way to the disk, oldest first */
    size_t pending_count;
    uint64_t acked, completed;
    bool stopped, sealed, ready;
    uint64_t sets_in_flight;
    const char *const *names;
    size_t name_count;
} me = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void tell(const char *what, uint64_t number)
{
    char line[64];
    int n = snprintf(line, sizeof line, "%s %llu\n", what, (unsigned long long)number);

    if (write(me.acks, line, (size_t)n) != n) {
        abort();
    }
}

/* ---- named points ---- */

static void at_point(const char *name, void *arg)
{
    (void)arg;
    for (size_t i = 0; i < me.name_count; i++) {
        if (strcmp(me.names[i], name) != 0) {
            continue;
        }
        uint64_t hits = __atomic_add_fetch(&me.status->hits[i], 1, __ATOMIC_SEQ_CST);
        if (opt.point && hits == opt.hit && strcmp(name, opt.point) == 0) {
            (void)kill(getpid(), opt.stop ? SIGSTOP : SIGKILL);
        }
    }
    if (strcmp(name, "WAL_AFTER_IDLE_SEAL") == 0) {
        pthread_mutex_lock(&me.mutex);
        me.sealed = true;
        pthread_cond_broadcast(&me.changed);
        pthread_mutex_unlock(&me.mutex);
    }
}

/* ---- the receiver ---- */

static int receiver_start(void *self, levee_inlet *inlet, struct levee_error *err)
{
    (void)self;
    (void)err;
    pthread_mutex_lock(&me.mutex);
    me.inlet = inlet;
    pthread_cond_broadcast(&me.changed);
    pthread_mutex_unlock(&me.mutex);
    return LEVEE_OK;
}

static void receiver_stop(void *self)
{
    (void)self;
    pthread_mutex_lock(&me.mutex);
    me.stopped = true;
    pthread_cond_broadcast(&me.changed);
    pthread_mutex_unlock(&me.mutex);
}

static void receiver_durable(void *self, uint64_t ticket)
{
    size_t done = 0;

    (void)self;
    pthread_mutex_lock(&me.mutex);
    while (done < me.pending_count && me.pending[done].ticket <= ticket) {
        me.acked = me.pending[done++].last;
    }
    if (done) {
        me.pending_count -= done;
        memmove(me.pending, me.pending + done, me.pending_count * sizeof me.pending[0]);
        tell("ack", me.acked);
        pthread_cond_broadcast(&me.changed);
    }
    pthread_mutex_unlock(&me.mutex);
}

static void receiver_ready(void *self)
{
    (void)self;
    pthread_mutex_lock(&me.mutex);
    me.ready = true;
    pthread_cond_broadcast(&me.changed);
    pthread_mutex_unlock(&me.mutex);
}

static const struct levee_receiver_ops receiver = {.version = 1,
                                                   .start = receiver_start,
                                                   .stop = receiver_stop,
                                                   .durable = receiver_durable,
                                                   .ready = receiver_ready};

/* ---- the graph ---- */

static void add_kafka_sink(levee_stream *s, const char *uid, const char *brokers, const char *topic)
{
    struct levee_kafka_sink_options o = {.brokers = brokers,
                                         .topic = topic,
                                         .properties = opt.properties,
                                         .refresh_ms = opt.refresh_ms,
                                         .transaction_timeout_ms = opt.timeout_ms,
                                         .transaction_bytes = opt.part_bytes,
                                         .value = LEVEE_VALUE_I64};

    levee_kafka_sink(s, uid, &o);
}

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    (void)arg;
    levee_stream *s = levee_receiver_source(
        ctx, "sender",
        &(struct levee_receiver_options){.partitions = 2, .reliable = true, .replayable = true},
        &receiver, NULL);
    s = levee_reduce_by_key(levee_flat_map(s, job_to_pairs, NULL), &levee_sum_i64);
    s = levee_update_state_by_key(s, "totals", NULL, levee_update_sum_i64, NULL);
    if (opt.brokers) {
        add_kafka_sink(s, "out", opt.brokers, opt.topic);
        if (opt.also_brokers) {
            add_kafka_sink(s, "also", opt.also_brokers, opt.also_topic);
        }
    } else {
        levee_file_sink(
            s, "out", &(struct levee_file_sink_options){.path = opt.out, .value = LEVEE_VALUE_I64});
    }
    return levee_context_status(ctx, err);
}

static void completed(void *arg, const struct levee_batch_info *info)
{
    (void)arg;
    pthread_mutex_lock(&me.mutex);
    me.completed += info->records;
    __atomic_store_n(&me.status->completed, me.completed, __ATOMIC_SEQ_CST);
    pthread_cond_broadcast(&me.changed);
    pthread_mutex_unlock(&me.mutex);
}

static void submitted(void *arg, const struct levee_batch_info *info)
{
    (void)arg;
    __atomic_add_fetch(&me.status->taken, info->records, __ATOMIC_SEQ_CST);
}

/* ---- the sender ---- */

/* Appends records first … last; waits while levee is full. */
static int append_set(uint64_t first, uint64_t last, struct levee_error *err)
{
    static char text[JOB_SET][JOB_TEXT_MAX];
    struct levee_record records[JOB_SET];
    uint64_t ticket = 0;
    int code = LEVEE_ESTOPPED;

    if (!me.status) {
        return LEVEE_ESTATE; /* main maps it first */
    }
    for (uint64_t i = first; i <= last; i++) {
        char *t = text[i - first];
        size_t n = job_text(opt.seed, i, t);
        records[i - first] = (struct levee_record){.value = {(uint8_t *)t, n}};
    }
    pthread_mutex_lock(&me.mutex);
    while (!me.stopped && me.pending_count == PENDING_MAX) {
        pthread_cond_wait(&me.changed, &me.mutex);
    }
    /* Before the append, so that the status never lags behind what levee has. */
    if (!me.stopped && last > me.status->appended) {
        __atomic_store_n(&me.status->appended, last, __ATOMIC_SEQ_CST);
    }
    const struct levee_append append = {.producer = levee_text("sender"),
                                        .partition = (uint32_t)(first / JOB_SET % 2),
                                        .first_sequence = first,
                                        .records = records,
                                        .count = (size_t)(last - first + 1)};
    do {
        me.ready = false;
        code = me.stopped ? LEVEE_ESTOPPED : levee_inlet_append(me.inlet, &append, &ticket, err);
        while (code == LEVEE_EFULL && !me.ready && !me.stopped) {
            pthread_cond_wait(&me.changed, &me.mutex);
        }
    } while (code == LEVEE_EFULL);
    if (code == LEVEE_OK) {
        me.pending[me.pending_count].ticket = ticket;
        me.pending[me.pending_count++].last = last;
    }
    pthread_mutex_unlock(&me.mutex);
    return code;
}

/* Until what was sent is durable but for a few sets. */
static bool wait_for_room(uint64_t sent, uint64_t in_flight_max)
{
    pthread_mutex_lock(&me.mutex);
    while (!me.stopped && me.acked + in_flight_max * JOB_SET < sent) {
        pthread_cond_wait(&me.changed, &me.mutex);
    }
    bool goes_on = !me.stopped;
    pthread_mutex_unlock(&me.mutex);
    return goes_on;
}

/* Batches follow each other instead of growing: no further set before one more is done. */
static bool wait_for_batches(uint64_t sent_here)
{
    pthread_mutex_lock(&me.mutex);
    while (!me.stopped && me.completed + me.sets_in_flight * JOB_SET < sent_here) {
        pthread_cond_wait(&me.changed, &me.mutex);
    }
    bool goes_on = !me.stopped;
    pthread_mutex_unlock(&me.mutex);
    return goes_on;
}

/* In a segment without room the log cannot seal itself: after a while more is sent. */
static bool wait_for_seal(void)
{
    struct timespec end;

    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += SEAL_PATIENCE_S;
    pthread_mutex_lock(&me.mutex);
    me.sealed = false;
    while (!me.stopped && !me.sealed && pthread_cond_timedwait(&me.changed, &me.mutex, &end) == 0) {
    }
    bool goes_on = !me.stopped;
    pthread_mutex_unlock(&me.mutex);
    return goes_on;
}

static void close_strange_fds(void)
{
    for (int fd = 3; fd < FDS; fd++) {
        if (fd != me.acks) {
            close(fd);
        }
    }
}

static int send_all(uint64_t durable, struct levee_error *err)
{
    uint64_t next = durable > RESENT ? durable - RESENT + 1 : 1, first_new = durable + 1;
    unsigned sets = 0;

    while (opt.forever || next <= opt.records) {
        uint64_t last = next + JOB_SET - 1;
        if (!opt.forever && last > opt.records) {
            last = opt.records;
        }
        int code = append_set(next, last, err);
        if (code) {
            return me.stopped ? LEVEE_OK : code;
        }
        next = last + 1;
        if (!wait_for_room(last, me.sets_in_flight) ||
            !wait_for_batches(last >= first_new ? last - first_new + 1 : 0)) {
            return LEVEE_OK;
        }
        if (opt.close_fds && next > first_new + CLOSE_AFTER * JOB_SET) {
            close_strange_fds();
        }
        if (opt.idle && ++sets % QUIET_EVERY == 0 && !wait_for_seal()) {
            return LEVEE_OK;
        }
    }
    (void)wait_for_room(opt.records, 0);
    return LEVEE_OK;
}

/* The loop starts receivers, at its own time; false: it has stopped before. */
static bool wait_for_inlet(void)
{
    pthread_mutex_lock(&me.mutex);
    while (!me.stopped && !me.inlet) {
        pthread_cond_wait(&me.changed, &me.mutex);
    }
    bool there = me.inlet != NULL;
    pthread_mutex_unlock(&me.mutex);
    return there;
}

/* A fact of the source, logged before anything is received, as Kafka's resolved offsets are. */
static int remember_start(struct levee_error *err)
{
    uint8_t known[8];
    size_t len = sizeof known;

    if (levee_inlet_recall(me.inlet, "start", known, &len)) {
        return LEVEE_OK;
    }
    return levee_inlet_remember(me.inlet, "start", levee_text("here"), err);
}

/* From a context that has started to one that has stopped. */
static int live(struct levee_error *err)
{
    int code = wait_for_inlet() ? remember_start(err) : LEVEE_OK;

    if (code) {
        return code;
    }
    if (me.inlet) {
        uint64_t durable = levee_inlet_position(me.inlet, levee_text("sender"));
        tell("resume", durable);
        me.acked = durable;
        __atomic_store_n(&me.status->started, durable > 0 ? durable : 1, __ATOMIC_SEQ_CST);
        code = send_all(durable, err);
    }
    if (code) {
        return code;
    }
    /* Refused only if it is stopping already: then await says why. */
    (void)levee_drain(me.ctx, 0, NULL);
    return levee_await(me.ctx, err);
}

static int run(struct levee_error *err)
{
    static const struct levee_listener listener = {
        .version = 1, .batch_completed = completed, .batch_submitted = submitted};
    struct levee_testing *machine = NULL;
    int code = levee_testing_crash_points(&machine, at_point, NULL, err);
    struct levee_options o = {.directory = opt.directory,
                              .batch_interval_ms = 5,
                              .segment_bytes = 64 << 10,
                              .checkpoint_batches = 2,
                              .buffer_bytes = opt.seed % 2 ? 0 : TIGHT_BUFFER,
                              .block_bytes = opt.seed % 2 ? 0 : TIGHT_BUFFER / 8,
                              .max_rate = opt.rate,
                              .workers = 2,
                              .partitions = 4,
                              .guarantee = LEVEE_EXACTLY_ONCE,
                              .listener = &listener,
                              .testing = machine};

    code = code ? code : levee_get_or_create(&me.ctx, &o, build, NULL, err);
    code = code ? code : levee_start(me.ctx, err);
    code = code ? code : live(err);
    levee_free(me.ctx);
    levee_sim_free(machine);
    return code;
}

int main(int argc, char **argv)
{
    struct levee_error err = {0};

    if (argc < 7) {
        fputs("usage: crash_child DIR OUT ACKS STATUS SEED RECORDS [--point NAME HIT] [--idle]"
              " [--forever] [--ahead SETS] [--rate RECORDS] [--kafka BROKERS TOPIC] [--also "
              "BROKERS TOPIC]"
              " [--property P]... [--refresh MS] [--timeout MS] [--part BYTES]\n",
              stderr);
        return 1;
    }
    opt.directory = argv[1];
    opt.out = argv[2];
    opt.seed = strtoull(argv[5], NULL, 10);
    opt.records = strtoull(argv[6], NULL, 10);
    for (int i = 7; i < argc; i++) {
        if (strcmp(argv[i], "--idle") == 0) {
            opt.idle = true;
        } else if (strcmp(argv[i], "--forever") == 0) {
            opt.forever = true;
        } else if (strcmp(argv[i], "--close-fds") == 0) {
            opt.close_fds = true;
        } else if (strcmp(argv[i], "--kafka") == 0 && i + 2 < argc) {
            opt.brokers = argv[++i];
            opt.topic = argv[++i];
        } else if (strcmp(argv[i], "--also") == 0 && i + 2 < argc) {
            opt.also_brokers = argv[++i];
            opt.also_topic = argv[++i];
        } else if (strcmp(argv[i], "--property") == 0 && i + 1 < argc && opt.property_count < 7) {
            opt.properties[opt.property_count++] = argv[++i];
        } else if (strcmp(argv[i], "--refresh") == 0 && i + 1 < argc) {
            opt.refresh_ms = (uint32_t)strtoul(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--timeout") == 0 && i + 1 < argc) {
            opt.timeout_ms = (uint32_t)strtoul(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--part") == 0 && i + 1 < argc) {
            opt.part_bytes = strtoull(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--ahead") == 0 && i + 1 < argc) {
            opt.ahead = strtoull(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--rate") == 0 && i + 1 < argc) {
            opt.rate = strtoull(argv[++i], NULL, 10);
        } else if ((strcmp(argv[i], "--point") == 0 || strcmp(argv[i], "--stop") == 0) &&
                   i + 2 < argc) {
            opt.stop = argv[i][2] == 's';
            opt.point = argv[++i];
            opt.hit = strtoull(argv[++i], NULL, 10);
        }
    }
    (void)signal(SIGXFSZ,
                 SIG_IGN); /* the library touches no signal: a full quota is an error here */
    me.sets_in_flight = opt.ahead ? opt.ahead : opt.seed % 2 ? SETS_IN_FLIGHT : TIGHT_SETS;
    me.names = levee_crash_point_names(&me.name_count);
    me.acks = open(argv[3], O_WRONLY | O_APPEND | O_CREAT, 0644);
    int fd = open(argv[4], O_RDWR | O_CREAT, 0644);
    if (me.acks < 0 || fd < 0 || ftruncate(fd, sizeof *me.status) != 0) {
        perror("crash_child");
        return 1;
    }
    me.status = mmap(NULL, sizeof *me.status, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (me.status == MAP_FAILED) {
        perror("crash_child");
        return 1;
    }
    me.status->started = me.status->completed = me.status->taken = 0;
    memset(me.status->hits, 0, sizeof me.status->hits);
    return run(&err) ? levee_print_error(stderr, &err) : 0;
}
