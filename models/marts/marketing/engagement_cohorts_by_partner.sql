{{ engagement_cohorts(by=['partner_id']) }}
