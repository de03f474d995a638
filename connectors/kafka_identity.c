/*
 * Does the topic still hold what was read from it?
 *
 * An offset is no identity: a topic that was deleted and made anew, or that an unclean election has
 * truncated, soon has other records at the same offsets, and going on there would lose the ones in
 * between silently. So log and checkpoint keep the hash of the last record taken beside each
 * position (levee_inlet_last_hash), and after a start the first message fetched of a partition is
 * that one again. It has three answers:
 *
 *   the same     reading goes on behind it;
 *   different    TOPIC_CHANGED with both hashes, and nothing is read;
 *   absent       legitimate where the log's beginning has moved past it, or compaction has removed
 *                it: counted and shown. In a topic that is known not to be compacted,
 * TOPIC_CHANGED.
 *
 * The hash covers key, value and time as they are in our log. Whether values are in envelopes may
 * differ from the start before, so both forms count as the same.
 *
 * What stays open: the client (2.0.2) shows neither topic ids nor leader epochs. A topic made anew
 * that holds an equal record at that very offset looks the same, and what changes while we read is
 * noticed only when our position is out of range.
 */
#include "connectors/kafka_source.h"

/* Asked once and not insisted on: it takes rights that a reader may not have. */
static bool known_not_compacted(struct kafka_source *s, const char *topic)
{
    struct kafka_policy policy;

    return kafka_policy_ask(s, topic, &policy) == RD_KAFKA_RESP_ERR_NO_ERROR &&
           strcmp(policy.cleanup, "unknown") != 0 && !strstr(policy.cleanup, "compact");
}

/* ---- the three answers ---- */

static void place_of(const struct kafka_source *s, const struct kafka_partition *p,
                     struct levee_error *err)
{
    (void)err_where(err, "offset %lld of partition %d of topic %s at %s", (long long)p->next - 1,
                    (int)p->id, p->topic->name, s->config.brokers);
}

int kafka_identity_absent(struct kafka_source *s, struct kafka_partition *p, int64_t found,
                          struct levee_error *err)
{
    struct levee_error told = {0};
    int64_t low = 0, high = 0;
    int code = kafka_watermarks(s, p, &low, &high, err);

    if (code) {
        return code;
    }
    bool retention = p->next - 1 < low;
    if (!retention && known_not_compacted(s, p->topic->name)) {
        err_set(err, LEVEE_ETOPIC_CHANGED,
                "source %s: Kafka topic %s has lost the last record that was read from it",
                levee_inlet_uid(s->inlet), p->topic->name);
        place_of(s, p, err);
        err_expected(err, "a record with hash %016llx", (unsigned long long)p->hash);
        return err_found(err, "nothing before offset %lld", (long long)found);
    }
    p->checking = false;
    counter_add(&s->shown.absent, 1);
    err_set(&told, LEVEE_ETOPIC_CHANGED,
            "the last record that was read is not in Kafka topic %s any more, by %s; it could not "
            "be compared, and reading goes on behind it",
            p->topic->name, retention ? "retention" : "compaction");
    place_of(s, p, &told);
    levee_inlet_report(s->inlet, &told);
    return LEVEE_OK;
}

int kafka_identity_check(struct kafka_source *s, struct kafka_partition *p,
                         const rd_kafka_message_t *m, bool *ret_new, struct levee_error *err)
{
    struct levee_record plain, enveloped;

    *ret_new = m->offset >= p->next;
    if (*ret_new) {
        return kafka_identity_absent(s, p, m->offset, err);
    }
    if (m->offset != p->next - 1) {
        return LEVEE_OK;
    }
    kafka_record_of(m, &plain);
    enveloped = plain;
    buf_clear(&s->scratch); /* in use only while messages are delivered */
    if (!kafka_envelope_put(m, p->topic->name, &s->scratch)) {
        return err_nomem(err, s->scratch.len);
    }
    enveloped.value = buf_view(&s->scratch);
    uint64_t hash = levee_record_hash(&plain), other = levee_record_hash(&enveloped);
    if (hash != p->hash && other != p->hash) {
        err_set(err, LEVEE_ETOPIC_CHANGED,
                "source %s: Kafka topic %s holds another record where the last one was read",
                levee_inlet_uid(s->inlet), p->topic->name);
        place_of(s, p, err);
        err_expected(err, "hash %016llx", (unsigned long long)p->hash);
        return err_found(err, "hash %016llx",
                         (unsigned long long)(s->config.envelope ? other : hash));
    }
    p->checking = false;
    counter_add(&s->shown.verified, 1);
    return LEVEE_OK;
}
