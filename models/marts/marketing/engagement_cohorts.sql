{{ engagement_cohorts() }}
