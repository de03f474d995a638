#include "tests/fault/kafka_trial.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PARTITIONS_MAX 8

static struct broker *broker;

const char *ktrial_version(void)
{
    const char *version = getenv("KAFKA_VERSION");

    return version && *version ? version : "4.1";
}

/* ---- the oracle: one partition ---- */

/* The batch that the record's header names; 0: it has none. */
static uint64_t batch_of(const rd_kafka_message_t *m, bool *ret_part)
{
    rd_kafka_headers_t *headers = NULL;
    const void *value = NULL;
    const char *at;
    char text[400];
    size_t len = 0;

    if (rd_kafka_message_headers(m, &headers) ||
        rd_kafka_header_get_last(headers, "levee", &value, &len) || len >= sizeof text) {
        return 0;
    }
    memcpy(text, value, len);
    text[len] = '\0';
    at = strstr(text, " batch=");
    *ret_part = strstr(text, " records=") != NULL;
    return at ? strtoull(at + 7, NULL, 10) : 0;
}

static bool judge_batches(struct trial *t, const struct broker_log *log)
{
    static char text[64 * JOB_KEYS];
    size_t len = 0;
    bool part = false;

    t->parts = 0;
    for (size_t i = 0; i < log->count; i++) {
        const rd_kafka_message_t *m = log->records[i];
        if (len + m->key_len + m->len + 2 > sizeof text) {
            (void)snprintf(t->why, sizeof t->why, "a batch without an end at offset %" PRId64,
                           m->offset);
            return false;
        }
        len += (size_t)sprintf(text + len, "%.*s\t%.*s\n", (int)m->key_len, (const char *)m->key,
                               (int)m->len, (const char *)m->payload);
        uint64_t batch = batch_of(m, &part);
        t->parts += batch && part;
        if (batch && !part) {
            if (!job_judge(&t->fold, batch, text, len, t->appended, t->why)) {
                return false;
            }
            len = 0;
        }
    }
    if (len && !(part && t->part_bytes)) {
        (void)snprintf(t->why, sizeof t->why, "the topic ends in the middle of a batch");
    }
    return len == 0 || (part && t->part_bytes); /* the next life goes on with it */
}

/* ---- the oracle: several partitions ---- */

struct seen {
    int32_t partition;
    int64_t total;
};
struct series { /* of one key, as read: by partition, then offset */
    struct seen *items;
    size_t count, cap;
};

static void series_add(struct series *s, int32_t partition, int64_t total)
{
    if (s->count == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 256;
        s->items = realloc(s->items, s->cap * sizeof *s->items);
        ck_assert_ptr_nonnull(s->items);
    }
    s->items[s->count++] = (struct seen){partition, total};
}

static int64_t number_of(const rd_kafka_message_t *m)
{
    char text[32] = "";

    memcpy(text, m->payload, m->len < sizeof text - 1 ? m->len : sizeof text - 1);
    return strtoll(text, NULL, 10);
}

static int by_total(const void *a, const void *b)
{
    const struct seen *x = a, *y = b;

    return (x->total > y->total) - (x->total < y->total);
}

/* The totals that a key should have, one per batch that touches it; batches end at these counts. */
static size_t expected_of(const struct trial *t, const struct series *all, unsigned key,
                          int64_t *out)
{
    int64_t total = 0, record = 0;
    size_t n = 0;

    for (size_t b = 0; b < all->count; b++) {
        bool touched = false;
        for (record++; record <= all->items[b].total; record++) {
            struct job_record r = job_record(t->seed, (uint64_t)record);
            if (r.key == key) {
                total += r.value;
                touched = true;
            }
        }
        record--;
        if (touched) {
            out[n++] = total;
        }
    }
    return n;
}

/* Read from `first` on, going round: the key has moved at most once. */
static bool same_from(const struct series *s, size_t first, const int64_t *want)
{
    for (size_t i = 0; i < s->count; i++) {
        if (s->items[(first + i) % s->count].total != want[i]) {
            return false;
        }
    }
    return true;
}

static bool judge_key(struct trial *t, const struct series *all, unsigned key,
                      const struct series *s)
{
    int64_t *want = calloc(all->count + 1, sizeof *want);
    size_t n = expected_of(t, all, key, want), moves = 0;
    bool fine = n == s->count && same_from(s, 0, want);

    for (size_t i = 1; i < s->count; i++) {
        if (s->items[i].partition != s->items[i - 1].partition) {
            moves++;
            fine = fine || (n == s->count && same_from(s, i, want));
        }
    }
    fine = fine && moves <= 1;
    if (!fine) {
        (void)snprintf(t->why, sizeof t->why,
                       "key %u: %zu totals, should be %zu, or others, or in another order", key,
                       s->count, n);
    }
    free(want);
    return fine;
}

static bool judge_counts(struct trial *t, struct series *all)
{
    if (all->count) {
        qsort(all->items, all->count, sizeof *all->items, by_total);
    }
    for (size_t i = 1; i < all->count; i++) {
        if (all->items[i].total == all->items[i - 1].total) {
            (void)snprintf(t->why, sizeof t->why, "the count %" PRId64 " is there twice",
                           all->items[i].total);
            return false;
        }
    }
    uint64_t last = all->count ? (uint64_t)all->items[all->count - 1].total : t->base;
    if (last > t->appended) {
        (void)snprintf(t->why, sizeof t->why, "%" PRIu64 " counted, %" PRIu64 " sent", last,
                       t->appended);
        return false;
    }
    t->fold.records = last;
    return true;
}

static bool judge_keys(struct trial *t, const struct broker_log *log)
{
    struct series all = {0}, keys[JOB_KEYS] = {{0}};
    bool fine = true;

    for (size_t i = 0; i < log->count; i++) {
        const rd_kafka_message_t *m = log->records[i];
        char key[16] = "";
        memcpy(key, m->key, m->key_len < sizeof key - 1 ? m->key_len : sizeof key - 1);
        unsigned long number = strncmp(key, "key-", 4) == 0 ? strtoul(key + 4, NULL, 10) : JOB_KEYS;
        series_add(number < JOB_KEYS ? &keys[number] : &all, m->partition, number_of(m));
    }
    fine = judge_counts(t, &all);
    for (unsigned k = 0; k < JOB_KEYS; k++) {
        fine = fine && judge_key(t, &all, k, &keys[k]);
        free(keys[k].items);
    }
    free(all.items);
    return fine;
}

/* A topic that was added later begins with the totals that there were then. */
static void begin_fold(struct trial *t)
{
    t->fold = (struct job_fold){.seed = t->seed, .records = t->base};
    for (uint64_t i = 1; i <= t->base; i++) {
        struct job_record r = job_record(t->seed, i);
        t->fold.totals[r.key] += r.value;
    }
}

static bool judge_topic(struct trial *t)
{
    struct broker_log log;
    bool several = false;

    begin_fold(t);
    BROKER_MUST(broker, broker_read_committed(broker, t->topic, &log));
    for (size_t i = 0; i < log.count; i++) {
        several = several || log.records[i]->partition > 0;
    }
    bool fine = several ? judge_keys(t, &log) : judge_batches(t, &log);
    broker_log_release(&log);
    return fine;
}

/* ---- trials ---- */

static void open_on(struct trial *t, struct broker *b, uint64_t seed, int partitions, int replicas,
                    const char *const *properties)
{
    static unsigned n;
    static char names[16][64];
    char *name = names[n % 16];

    broker = b;
    trial_open(t, seed);
    (void)snprintf(name, sizeof names[0], "out-%d-%u", (int)getpid(), n++);
    BROKER_MUST(b, broker_topic_create(b, name, partitions, replicas, properties));
    t->brokers = broker_address(b);
    t->topic = name;
    t->collect = judge_topic;
}

void ktrial_open(struct trial *t, struct broker *b, uint64_t seed, int partitions)
{
    open_on(t, b, seed, partitions, 1, NULL);
}

void ktrial_open_replicated(struct trial *t, struct broker *b, uint64_t seed, int replicas,
                            const char *const *properties)
{
    open_on(t, b, seed, 1, replicas, properties);
}

void ktrial_must_be_fine(struct trial *t, const char *when)
{
    ck_assert_msg(trial_fine(t), "%s: %s\n%s", when, t->why, trial_said(t));
}

void ktrial_judge_on(struct trial *t, struct broker *b)
{
    broker = b;
    ktrial_must_be_fine(t, "on the other broker");
}

void ktrial_must_finish(struct trial *t)
{
    ck_assert_msg(trial_finish(t, 30), "%s\n%s", t->why, trial_said(t));
    trial_close(t);
}

void ktrial_copy_directory(const struct trial *t, const char *to)
{
    char command[1400];

    (void)snprintf(command, sizeof command, "cp -a '%s' '%s/%s'", t->dir, t->root, to);
    ck_assert_int_eq(system(command), 0); /* NOLINT(cert-env33-c): names of our own making */
}

struct trial ktrial_with_directory(const struct trial *t, const char *name)
{
    struct trial other = *t;

    (void)snprintf(other.dir, sizeof other.dir, "%s/%s", t->root, name);
    (void)snprintf(other.log, sizeof other.log, "%s/%s.log", t->root, name);
    (void)snprintf(other.status_path, sizeof other.status_path, "%s/%s.status", t->root, name);
    trial_map_status(&other);
    return other;
}

struct trial ktrial_with_topic(const struct trial *t, const char *topic, uint64_t base)
{
    struct trial other = *t;

    other.topic = topic;
    other.base = base;
    return other;
}

bool ktrial_said(const struct trial *t, const char *what)
{
    static char text[1 << 20];
    FILE *f = fopen(t->log, "r");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;

    if (f) {
        fclose(f);
    }
    text[n] = '\0';
    return strstr(text, what) != NULL;
}

void ktrial_must_refuse(struct trial *t, const char *code, const char *word)
{
    uint64_t sent = t->status->appended > t->appended ? t->status->appended : t->appended;
    int ended = trial_run(t, &(struct trial_life){.records = sent + 30});

    ck_assert_msg(ended > 0 && ended < 1000, "it ended with %d: %s", ended, trial_said(t));
    ck_assert_msg(ktrial_said(t, code) && ktrial_said(t, word), "no %s, %s in: %s", code, word,
                  trial_said(t));
}

/* ---- waiting ---- */

void ktrial_wait_for_records(const struct trial *t, uint64_t records)
{
    for (int patience = 3 * TRIAL_PATIENCE_MS; patience > 0; patience--) {
        if (__atomic_load_n(&t->status->completed, __ATOMIC_SEQ_CST) >= records) {
            return;
        }
        (void)poll(NULL, 0, 1);
    }
    ck_abort_msg("no progress: %s", trial_said(t));
}

void ktrial_wait_for_more(const struct trial *t, uint64_t records)
{
    ktrial_wait_for_records(t, __atomic_load_n(&t->status->completed, __ATOMIC_SEQ_CST) + records);
}

uint64_t ktrial_acked(const struct trial *t)
{
    FILE *f = fopen(t->acks, "r");
    char word[16];
    uint64_t n, acked = 0;

    while (f && fscanf(f, "%15s %" SCNu64, word, &n) == 2) {
        acked = n > acked ? n : acked;
    }
    if (f) {
        fclose(f);
    }
    return acked;
}

void ktrial_kill(struct trial *t, pid_t pid, const char *when)
{
    (void)kill(pid, SIGKILL);
    int code = trial_wait(t, pid, TRIAL_PATIENCE_MS);
    ck_assert_msg(code == TRIAL_KILLED, "%s: it had ended with %d: %s", when, code, trial_said(t));
    ktrial_must_be_fine(t, when);
}

void ktrial_delete_group(const struct trial *t)
{
    char group[128];

    (void)snprintf(group, sizeof group, "levee-sink-%s", t->topic);
    if (broker_group_delete(broker, group) != BROKER_OK &&
        broker->failure.detail != RD_KAFKA_RESP_ERR_GROUP_ID_NOT_FOUND) { /* gone is gone */
        ck_abort_msg("%s", broker->failure.what);
    }
}
