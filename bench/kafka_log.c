#include "bench/kafka_log.h"

#include "bench/bench.h"

static int drop(levee_output *out, const struct levee_record *r, void *arg)
{
    (void)out;
    (void)r;
    (void)arg;
    return 0;
}

static int nothing(levee_batch *batch, const struct levee_token *token, void *arg,
                   struct levee_error *err)
{
    (void)batch;
    (void)token;
    (void)arg;
    (void)err;
    return LEVEE_OK;
}

void kafka_log_only(levee_stream *source)
{
    (void)levee_foreach_batch(levee_filter(source, drop, NULL), "none", nothing, NULL);
}

bool kafka_log_has(levee_context *ctx, struct levee_inlet *in, uint64_t count)
{
    if (counter_get(&ctx->count.received) < count) {
        return false;
    }
    pthread_mutex_lock(&in->mutex);
    bool open = in->generation_used;
    pthread_mutex_unlock(&in->mutex);
    return !open && wal_durable_lsn(ctx->wal) + 1 == wal_next_lsn(ctx->wal);
}

uint64_t kafka_log_sum(const struct rec_dir *dir, uint64_t count)
{
    struct wal_facts facts = {0};
    struct levee_error err = {0};
    uint64_t sum = 0, found = 0;

    bench_check(wal_scan(dir->io, dir->wal, &dir->context, 0, &facts, &err), &err, "scan");
    for (size_t i = 0; i < facts.entry_count; i++) {
        struct rt_block b = {0};
        struct rt_block_cursor c;
        struct levee_record r;
        if (facts.entries[i].type != WAL_BLOCK) {
            continue;
        }
        bench_check(wal_read_entry(dir->io, dir->wal, &facts, &facts.entries[i], &b.payload, &err),
                    &err, "read");
        bench_check(rt_block_parse(&b, &err), &err, "parse");
        for (rt_block_cursor_init(&c, &b); rt_block_next(&c, &r); found++) {
            sum += get_le64(r.value.data) * (r.value.len + 1);
        }
        buf_release(&b.payload);
    }
    wal_facts_release(&facts);
    bench_must(found == count, "the log holds every record once");
    return sum;
}
