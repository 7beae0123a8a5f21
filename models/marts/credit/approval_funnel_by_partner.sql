{{ approval_funnel(by=['partner_id']) }}
