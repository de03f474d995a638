/*
 * What people are told: one line each, through the log hook; listener callbacks; the guarantee of
 * the graph (P8); the name of this build.
 */
#define _GNU_SOURCE /* dl_iterate_phdr: the build id of the running program */
#include <link.h>

#include "runtime/context.h"

void rt_say(levee_context *ctx, int level, const char *fmt, ...)
{
    char line[1400];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (ctx->opt.log) {
        ctx->opt.log(ctx->opt.log_arg, level, line);
    } else if (level > 0) {
        (void)fprintf(stderr, "levee: %s\n", line);
    }
}

void rt_say_waiting(levee_context *ctx, const char *uid, bool *reported_io,
                    const struct levee_error *why)
{
    char line[1024];

    if (!*reported_io) {
        *reported_io = true;
        rt_say(ctx, 1, "waiting for %s: %s", uid, levee_error_format(why, line, sizeof line));
    }
}

void rt_listen_batch(struct rt_batch *b, int what, const struct levee_error *err)
{
    levee_context *ctx = b->ctx;
    const struct levee_listener *l = ctx->opt.listener;

    if (what == 2) {
        rt_show(ctx);
    }
    if (!l) {
        return;
    }
    uint64_t now = ctx->io->ops->now_ns(ctx->io);
    struct levee_batch_info info = {
        .id = b->header.id,
        .time_ms = b->header.time_ms,
        .ticks = b->header.ticks,
        .records = b->records,
        .scheduling_delay_ns = b->started_ns - b->submitted_ns,
        .processing_ns = what >= 2 ? now - b->started_ns : 0,
        .total_delay_ns = what >= 2 ? now - b->submitted_ns : 0,
        .replayed = b->logged != NULL,
    };
    void *arg = ctx->opt.listener_arg;
    if (what == 0 && l->batch_submitted) {
        l->batch_submitted(arg, &info);
    } else if (what == 1 && l->batch_started) {
        l->batch_started(arg, &info);
    } else if (what == 2 && l->batch_completed) {
        l->batch_completed(arg, &info);
    } else if (what == 3 && l->batch_failed) {
        l->batch_failed(arg, &info, err);
    }
}

/* Figures that other threads may ask for. */
void rt_show(levee_context *ctx)
{
    uint64_t keys = 0, bytes = 0;

    if (!ctx->computing) {
        rt_engine_state_size(ctx->engine, &keys, &bytes);
        atomic_store(&ctx->shown_keys, keys);
        atomic_store(&ctx->shown_state_bytes, bytes);
    }
    if (!ctx->computing) {
        atomic_store(&ctx->shown_late, rt_engine_late(ctx->engine));
    }
    atomic_store(&ctx->shown_batch, ctx->done_batch);
    atomic_store(&ctx->shown_ckpt, ctx->ckpt.last_batch);
}

/* ---- guarantee ---- */

static enum levee_guarantee of_source(const struct levee_inlet *in)
{
    if (in->options.reliable) {
        return LEVEE_EXACTLY_ONCE;
    }
    return LEVEE_AT_MOST_ONCE; /* what was on the way when it died is gone */
}

static enum levee_guarantee of_sink(const struct rt_sink *s)
{
    if (!s->ops || s->ops->kind == LEVEE_SINK_AT_LEAST_ONCE) {
        return LEVEE_AT_LEAST_ONCE;
    }
    return LEVEE_EXACTLY_ONCE;
}

static const char *guarantee_text(enum levee_guarantee g)
{
    static const char *const names[] = {"any", "at most once", "at least once", "exactly once"};

    return names[g];
}

enum levee_guarantee levee_context_guarantee(levee_context *ctx, const char **why)
{
    enum levee_guarantee weakest = LEVEE_EXACTLY_ONCE;
    const char *uid = "";

    for (size_t i = 0; i < ctx->graph->source_count; i++) {
        const struct rt_source *s = ctx->graph->sources[i]->source;
        if (s && of_source(&s->inlet) < weakest) {
            weakest = of_source(&s->inlet);
            uid = s->inlet.node->uid;
        }
    }
    for (size_t i = 0; i < ctx->graph->sink_count; i++) {
        const struct rt_sink *s = ctx->graph->sinks[i]->sink;
        if (s && of_sink(s) < weakest) {
            weakest = of_sink(s);
            uid = s->node->uid;
        }
    }
    if (ctx->lowered && ctx->lowered < weakest) {
        weakest = ctx->lowered;
        uid = ctx->lowered_uid;
    }
    if (why) {
        *why = uid;
    }
    return weakest;
}

int rt_guarantee_check(levee_context *ctx, struct levee_error *err)
{
    const char *uid;
    enum levee_guarantee have = levee_context_guarantee(ctx, &uid);

    if (have >= ctx->opt.guarantee) {
        return LEVEE_OK;
    }
    err_set(err, LEVEE_EGUARANTEE, "%s weakens the graph", uid);
    err_expected(err, "%s", guarantee_text(ctx->opt.guarantee));
    err_found(err, "%s", guarantee_text(have));
    return LEVEE_EGUARANTEE;
}

void rt_report_start(levee_context *ctx)
{
    const char *uid;
    enum levee_guarantee g = levee_context_guarantee(ctx, &uid);
    char id[UUID_TEXT];

    rt_say(ctx, 0, "%s: context %s, epoch %llu, guarantee %s%s%s", ctx->opt.directory,
           uuid_format(&ctx->dir.context, id), (unsigned long long)wal_epoch(ctx->wal),
           guarantee_text(g), uid[0] ? ", because of " : "", uid);
    if (ctx->has_facts) {
        rt_say(ctx, 0, "recovered in %.1f ms: checkpoint of batch %llu, %zu batches to replay",
               (double)ctx->recovery_ns / 1e6, (unsigned long long)ctx->facts.ckpt_batch,
               ctx->logged.count);
    }
}

/* ---- the build ---- */

static int note_build_id(struct dl_phdr_info *info, size_t size, void *arg)
{
    char *out = arg;

    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
        if (ph->p_type != PT_NOTE) {
            continue;
        }
        const uint8_t *p = (const uint8_t *)(info->dlpi_addr + ph->p_vaddr); // NOLINT
        const uint8_t *end = p + ph->p_memsz;
        while (p + sizeof(ElfW(Nhdr)) <= end) {
            ElfW(Nhdr) n;
            memcpy(&n, p, sizeof n);
            const uint8_t *name = p + sizeof n, *desc = name + align_up(n.n_namesz, 4);
            if (n.n_type == NT_GNU_BUILD_ID && n.n_namesz == 4 && memcmp(name, "GNU", 4) == 0) {
                for (size_t k = 0; k < n.n_descsz && k < 20; k++) {
                    (void)snprintf(out + 2 * k, 3, "%02x", desc[k]);
                }
                return 1;
            }
            p = desc + align_up(n.n_descsz, 4);
        }
    }
    return 1; /* only the program itself, which comes first */
}

void rt_program_id(char out[65])
{
    (void)snprintf(out, 65, "unknown");
    (void)dl_iterate_phdr(note_build_id, out);
}
