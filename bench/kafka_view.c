#include "bench/kafka_view.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#define SILENCE  0.03 /* seconds without records: the transaction was read */
#define PATIENCE 120  /* seconds */

struct view *view_open(const char *topic, int partitions)
{
    struct view *v = bench_alloc(sizeof *v);

    v->rk = rig_consumer(topic, partitions, "");
    tally_init(&v->tally);
    return v;
}

void view_close(struct view *v)
{
    rig_consumer_destroy(v->rk);
    tally_release(&v->tally);
    free(v);
}

static void note_commit(struct view *v)
{
    if (v->commit_count < VIEW_COMMITS &&
        (v->commit_count == 0 || v->commits[v->commit_count - 1].words < v->tally.sum)) {
        v->commits[v->commit_count++] = (struct view_commit){v->newest, v->tally.sum};
    }
}

static void take_total(struct view *v, const rd_kafka_message_t *m)
{
    struct tally_entry *e = tally_at(&v->tally, m->key, m->key_len);
    uint64_t total = tally_number(m->payload, m->len);

    bench_must(total > e->count, "a total that is not new: repeated output");
    v->tally.sum += total - e->count;
    e->count = total;
    v->newest = bench_now();
    v->sent_ms = rd_kafka_message_timestamp(m, NULL);
}

void view_read(struct view *v)
{
    rd_kafka_message_t *m = rd_kafka_consumer_poll(v->rk, 20);

    if (m && !m->err) {
        take_total(v, m);
    }
    if (m) {
        rd_kafka_message_destroy(m);
    }
    if (v->tally.sum && bench_now() > v->newest + SILENCE) {
        note_commit(v);
    }
}

void view_watch(struct view *v, uint64_t words, int64_t since_ms)
{
    double deadline = bench_now() + PATIENCE;

    while (v->tally.sum < words && v->sent_ms < since_ms) {
        view_read(v);
        bench_must(bench_now() < deadline, "waiting for totals");
    }
}

int64_t view_now_ms(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void view_kill(pid_t child)
{
    int status = 0;

    bench_must(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child, "kill");
    bench_must(WIFSIGNALED(status), "it had ended before it was killed");
}
