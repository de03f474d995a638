/*
 * What the client fetches: everything from our own positions, nothing while there is no room for
 * long (parked), or all but the partitions that rest, because they are over their rate or their
 * leader served something that did not verify.
 *
 * The client never decides where to go on: whatever stopped, it is assigned again at `next`. What
 * it had fetched ahead of that is dropped by its own versions of an assignment, and, should one
 * slip through, by our comparison with `next`.
 */
#include "connectors/kafka_source.h"

static void add(rd_kafka_topic_partition_list_t *list, const struct kafka_partition *p)
{
    int64_t from = p->checking ? p->next - 1 : p->next; /* the record before is looked at first */

    rd_kafka_topic_partition_list_add(list, p->topic->name, p->id)->offset = from;
}

static int assign_error(const struct kafka_source *s, const char *text, struct levee_error *err)
{
    return err_set(err, LEVEE_EBROKER, "source %s: the Kafka client cannot assign partitions: %s",
                   levee_inlet_uid(s->inlet), text);
}

static int assign_list(struct kafka_source *s, rd_kafka_topic_partition_list_t *list,
                       struct levee_error *err)
{
    rd_kafka_resp_err_t code = rd_kafka_assign(s->rk, list);

    rd_kafka_topic_partition_list_destroy(list);
    return code ? assign_error(s, rd_kafka_err2str(code), err) : LEVEE_OK;
}

/* Takes the client's error. */
static int changed(const struct kafka_source *s, rd_kafka_error_t *error, struct levee_error *err)
{
    if (!error) {
        return LEVEE_OK;
    }
    int code = assign_error(s, rd_kafka_error_string(error), err);
    rd_kafka_error_destroy(error);
    return code;
}

int kafka_assign(struct kafka_source *s, struct levee_error *err)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)s->count);

    for (size_t i = 0; i < s->count; i++) {
        const struct kafka_partition *p = s->partitions[i];
        if (!p->at_end && !p->resting) {
            add(list, p);
        }
    }
    s->parked = false;
    return assign_list(s, list, err);
}

int kafka_park(struct kafka_source *s, struct levee_error *err)
{
    s->parked = true;
    return assign_list(s, rd_kafka_topic_partition_list_new(0), err);
}

int kafka_assign_new(struct kafka_source *s, size_t first, struct levee_error *err)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_error_t *error = NULL;

    for (size_t i = first; i < s->count; i++) {
        if (!s->partitions[i]->at_end) {
            add(list, s->partitions[i]);
        }
    }
    if (list->cnt && !s->parked) {
        error = rd_kafka_incremental_assign(s->rk, list);
    }
    rd_kafka_topic_partition_list_destroy(list);
    return changed(s, error, err);
}

int kafka_rest(struct kafka_source *s, struct kafka_partition *p, uint64_t ns,
               struct levee_error *err)
{
    rd_kafka_error_t *error = NULL;

    ASSERT(!p->resting);
    if (!s->parked) {
        rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
        rd_kafka_topic_partition_list_add(list, p->topic->name, p->id);
        error = rd_kafka_incremental_unassign(s->rk, list);
        rd_kafka_topic_partition_list_destroy(list);
    }
    p->resting = true;
    p->rest_until_ns = kafka_now(s) + ns;
    s->resting_count++;
    return changed(s, error, err);
}

int kafka_wait_ms(const struct kafka_source *s)
{
    uint64_t now = kafka_now(s), wait = (uint64_t)KAFKA_POLL_MS * 1000000u;

    for (size_t i = 0; i < s->count && s->resting_count; i++) {
        const struct kafka_partition *p = s->partitions[i];
        uint64_t rest = p->resting && p->rest_until_ns > now ? p->rest_until_ns - now : 0;
        wait = p->resting && rest < wait ? rest : wait;
    }
    return (int)(wait / 1000000u);
}

int kafka_wake(struct kafka_source *s, struct levee_error *err)
{
    rd_kafka_error_t *error = NULL;

    if (s->resting_count == 0) {
        return LEVEE_OK;
    }
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    uint64_t now = kafka_now(s);
    for (size_t i = 0; i < s->count; i++) {
        struct kafka_partition *p = s->partitions[i];
        if (p->resting && now >= p->rest_until_ns) {
            p->resting = false;
            s->resting_count--;
            if (!p->at_end) {
                add(list, p);
            }
        }
    }
    if (list->cnt && !s->parked) {
        error = rd_kafka_incremental_assign(s->rk, list);
    }
    rd_kafka_topic_partition_list_destroy(list);
    return changed(s, error, err);
}

/* ---- the rate of a partition ---- */

uint64_t kafka_rate_wait_ns(const struct kafka_source *s, struct kafka_partition *p)
{
    uint64_t rate = s->config.rate;

    if (rate == 0) {
        return 0;
    }
    if (p->tokens == 0) {
        uint64_t burst = rate / 4 ? rate / 4 : 1; /* each rest costs a fetch: four a second */
        uint64_t full = burst * KAFKA_SECOND_NS / rate, now = kafka_now(s);
        if (p->refilled_ns && now < p->refilled_ns + full) {
            return p->refilled_ns + full - now;
        }
        /* A little late is made up for, so that the rate holds on average; a silence is not. */
        p->refilled_ns = now < p->refilled_ns + 2 * full ? p->refilled_ns + full : now;
        p->tokens = burst;
    }
    p->tokens--;
    return 0;
}
