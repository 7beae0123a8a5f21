{{ approval_funnel() }}
